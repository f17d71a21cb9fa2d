# SPDX-License-Identifier: Apache-2.0
# Each rule of PROTOCOL.md is named at the functions that it names, and no other rule is in the code.
# test/README.md names tests that exist, and each script of calls and each trap.
. "$(dirname "$0")/../lib/test.sh"

cd "$SRC"
python3 test/style/rules.py
