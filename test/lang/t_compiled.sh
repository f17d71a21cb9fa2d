# SPDX-License-Identifier: Apache-2.0
# limit: 180
# C, C++ and Rust; and what is linked without a dynamic libc, which is never seen.
. "$(dirname "$0")/../lib/net.sh"
. "$SRC/test/lib/echo.sh"

cd "$SRC/test/lang"
gcc -O2 -pthread -o "$T/c" echo.c
gcc -O2 -pthread -static -o "$T/static" echo.c
musl-gcc -O2 -o "$T/musl" echo.c
g++ -O2 -std=c++17 -o "$T/c++" echo.cc
rustc -O -o "$T/rust" echo.rs

start_xvmd
gcc=$(gcc -dumpfullversion)
echoes "C, threads" "gcc $gcc" ring "$T/c"
echoes "C++, poll" "g++ $gcc" ring "$T/c++"
echoes "Rust, std::net" "rustc $(rustc -V | cut -d ' ' -f 2)" ring "$T/rust"
echoes "C, linked statically" "gcc $gcc" "linked statically" "$T/static"
echoes "C, musl" "musl $(dpkg-query -W -f '${Version}' musl-tools)" "another libc" "$T/musl"
