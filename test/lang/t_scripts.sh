# SPDX-License-Identifier: Apache-2.0
# limit: 180
# Perl, Ruby, PHP's command line and Erlang.
. "$(dirname "$0")/../lib/net.sh"
. "$SRC/test/lib/echo.sh"

start_xvmd
cd "$SRC/test/lang"
echoes "Perl, fork" "$(perl -e 'print substr $^V, 1')" ring perl echo.pl
echoes "Ruby, threads" "$(ruby -e 'print RUBY_VERSION')" ring ruby echo.rb
echoes "PHP, streams" "$(php -r 'echo PHP_VERSION;')" ring php echo.php
echoes "Erlang, gen_tcp" "$(erl -noshell -eval 'io:put_chars(erlang:system_info(otp_release)), halt().')" ring escript echo.erl
