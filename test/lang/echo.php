<?php
// SPDX-License-Identifier: Apache-2.0
// The echo in PHP, with stream_select(). echo.c says how it is called.
// As a page (of PHP-FPM) it gives back what is posted to it.

if (PHP_SAPI !== 'cli') {
	header('Content-Type: application/octet-stream');
	header('X-Pid: ' . getmypid());
	readfile('php://input');
	exit;
}

function fail($why)
{
	fwrite(STDERR, "$why\n");
	exit(1);
}

set_error_handler(function ($nr, $text) {
	fail($text);
});
[, $what, $addr, $port] = $argv;

if ($what === 'serve') {
	$l = stream_socket_server("tcp://$addr:$port");
	$all = [$l];
	while (true) {
		$r = $all;
		$w = $e = null;
		stream_select($r, $w, $e, null);
		foreach ($r as $s) {
			if ($s === $l) {
				$all[] = stream_socket_accept($l);
				continue;
			}
			$data = fread($s, 30000);
			if ($data !== '') {
				// Blocking: all of it.
				fwrite($s, $data) === strlen($data) or fail('short write');
			} elseif (feof($s)) {
				unset($all[array_search($s, $all, true)]);
				fclose($s);
			}
		}
	}
}

[, , , , $file, $out, $n, $go] = $argv;
$data = file_get_contents($file);
$socks = $saves = $at = [];
for ($nr = 0; $nr < $n; $nr++) {
	$socks[$nr] = stream_socket_client("tcp://$addr:$port");
	$saves[$nr] = fopen("$out.$nr", 'wb');
	$at[$nr] = 0;
}
for ($i = 0; min($at) < strlen($data); $i++) {
	$size = [1, 100, 5000, 60000][$i % 4];
	foreach ($socks as $nr => $s) {
		$piece = substr($data, $at[$nr], $size);
		fwrite($s, $piece) === strlen($piece) or fail('short write');
	}
	foreach ($socks as $nr => $s) {
		$left = strlen(substr($data, $at[$nr], $size));
		while ($left > 0) {
			$got = fread($s, $left);
			$got !== '' && $got !== false or fail('end of file too soon');
			fwrite($saves[$nr], $got);
			$left -= strlen($got);
			$at[$nr] += strlen($got);
		}
	}
}
echo "all back\n";
while (!file_exists($go)) {
	usleep(10000);
	clearstatcache();
}
foreach ($socks as $s) {
	stream_socket_shutdown($s, STREAM_SHUT_WR);
	stream_get_contents($s) === '' or fail('more came back than was sent');
}
