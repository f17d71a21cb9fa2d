#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# The echo in Perl: a process for each connection, at both ends. echo.c says how it is called.
use strict;
use warnings;
use IO::Handle;
use IO::Socket::INET;
use Time::HiRes 'sleep';

my @sizes = (1, 100, 5000, 60000);
my ($what, $addr, $port, $file, $out, $n, $go) = @ARGV;

if ($what eq 'serve') {
	$SIG{CHLD} = 'IGNORE';
	my $l = IO::Socket::INET->new(LocalAddr => $addr, LocalPort => $port, Listen => 100, ReuseAddr => 1) or die "listen: $!";
	while (1) {
		my $s = $l->accept or next;
		if (fork == 0) {
			close $l;
			my $buf;
			while (my $got = sysread $s, $buf, 30000) {
				# Buffered, by Perl's own layer.
				print $s $buf and $s->flush or die "print: $!";
			}
			exit 0;
		}
		close $s;
	}
}

open my $f, '<:raw', $file or die "$file: $!";
my $data = do { local $/; <$f> };
pipe my $ready, my $is_ready or die "pipe: $!";
$is_ready->autoflush;
for my $nr (0 .. $n - 1) {
	next if fork;
	my $s = IO::Socket::INET->new(PeerAddr => $addr, PeerPort => $port) or die "connect: $!";
	open my $save, '>:raw', "$out.$nr" or die "$out: $!";
	my ($at, $i) = (0, 0);
	while ($at < length $data) {
		my $piece = substr $data, $at, $sizes[$i++ % 4];
		print $s $piece or die "print: $!";
		$s->flush;
		my $back = '';
		read $s, $back, length $piece;
		length $back == length $piece or die "end of file too soon: $!";
		print $save $back;
		$at += length $piece;
	}
	close $save;
	print $is_ready 'x';
	sleep 0.01 until -e $go;
	shutdown $s, 1;
	defined(my $end = sysread $s, my $buf, 1) or die "sysread: $!";
	die 'more came back than was sent' if $end;
	exit 0;
}
close $is_ready;
my $all = '';
read $ready, $all, $n;
length $all == $n or die 'a connection failed';
print "all back\n";
STDOUT->flush;
my $failed = 0;
while (wait != -1) {
	$failed ||= $?;
}
exit !!$failed;
