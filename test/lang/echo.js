// SPDX-License-Identifier: Apache-2.0
// The echo in JavaScript: node echo.js net|http|cluster|workers, then as echo.c. httpcluster is a server
// only; SIGHUP replaces its workers.
'use strict';
const cluster = require('cluster');
const fs = require('fs');
const http = require('http');
const net = require('net');
const threads = require('worker_threads');

const SIZES = [1, 100, 5000, 60000];
const [how, what, addr, port, file, out, n, go] = process.argv.slice(2);

function pieces(data) {
	const list = [];
	for (let at = 0, i = 0; at < data.length; at += SIZES[i++ % 4])
		list.push(data.subarray(at, at + SIZES[i % 4]));
	return list;
}

function fail(e) {
	console.error(e);
	process.exit(1);
}

function wentGo(then) {
	if (fs.existsSync(go))
		then();
	else
		setTimeout(wentGo, 10, then);
}

// ---- servers ----

function serveNet() {
	net.createServer({ allowHalfOpen: true }, (sock) => {
		sock.on('error', fail);
		sock.pipe(sock);
	}).listen(port, addr);
}

function serveHttp() {
	const server = http.createServer((req, res) => {
		res.on('error', fail);
		req.pipe(res);
	});
	server.keepAliveTimeout = 60000;
	server.listen(port, addr);
	return server;
}

// Two at a time. One that is to go answers what it is asked, then closes.
function serveHttpCluster() {
	let retiring = false;

	if (cluster.isPrimary) {
		let workers = [cluster.fork(), cluster.fork()];
		process.on('SIGTERM', () => process.exit(0));
		process.on('SIGHUP', () => {
			const old = workers;
			let left = old.length;
			workers = old.map(() => cluster.fork());
			workers.forEach((w) => w.on('listening', () => {
				if (--left === 0)
					old.forEach((o) => o.send('retire'));
			}));
			old.forEach((o) => o.on('exit', (code, signal) => {
				console.log(`worker ended ${code} ${signal}`);
				if (code)
					process.exit(1);
			}));
		});
		return;
	}
	const server = serveHttp();
	server.prependListener('request', (req, res) => {
		if (retiring)
			res.setHeader('Connection', 'close');
	});
	process.on('message', (m) => {
		if (m !== 'retire')
			return;
		retiring = true;
		cluster.worker.disconnect();
	});
}

function serve() {
	if (how === 'http')
		return serveHttp();
	if (how === 'httpcluster')
		return serveHttpCluster();
	if (how === 'cluster' && cluster.isPrimary) {
		for (let i = 0; i < 2; i++)
			cluster.fork();
		cluster.on('exit', (w, code, signal) => fail(`worker: ${code} ${signal}`));
		process.on('SIGTERM', () => process.exit(0));
		return;
	}
	if (how === 'workers' && threads.isMainThread) {
		// A thread listens and serves; this one only waits.
		new threads.Worker(__filename, { argv: process.argv.slice(2) }).on('error', fail);
		process.on('SIGTERM', () => process.exit(0));
		return;
	}
	serveNet();
}

// ---- clients ----

// Streams it all; back(end) is called when all has come back, end(done) ends the connection.
function connectNet(nr, data, back) {
	const save = fs.openSync(`${out}.${nr}`, 'w');
	const list = pieces(data);
	const sock = net.connect({ port, host: addr, allowHalfOpen: true });
	let got = 0, i = 0, over = null;

	function send() {
		while (i < list.length)
			if (!sock.write(list[i++]))
				return;
	}
	sock.on('connect', send);
	sock.on('drain', send);
	sock.on('error', fail);
	sock.on('data', (chunk) => {
		fs.writeSync(save, chunk);
		got += chunk.length;
		if (got > data.length)
			fail('more came back than was sent');
		if (got === data.length)
			back((done) => {
				over = done;
				sock.end();
			});
	});
	sock.on('end', () => over ? over() : fail('end of file too soon'));
}

function connectHttp(nr, data, back) {
	const save = fs.openSync(`${out}.${nr}`, 'w');
	const list = pieces(data);
	const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });

	function next(i) {
		if (i === list.length)
			return back((done) => {
				agent.destroy();
				done();
			});
		const req = http.request({ host: addr, port, agent, method: 'POST' }, (res) => {
			if (res.statusCode !== 200)
				fail(res.statusCode);
			res.on('data', (chunk) => fs.writeSync(save, chunk));
			res.on('end', () => res.complete ? next(i + 1) : fail('cut short'));
		});
		req.on('error', fail);
		req.end(list[i]);
	}
	next(0);
}

// Ends with the last of them, one(nr, data, back) each.
function connectAll(one) {
	const data = fs.readFileSync(file);
	const ends = [];

	for (let nr = 0; nr < n; nr++)
		one(nr, data, (end) => {
			if (ends.push(end) < n)
				return;
			console.log('all back');
			let left = ends.length;
			wentGo(() => ends.forEach((f) => f(() => --left || process.exit(0))));
		});
}

if (what === 'serve')
	serve();
else if (how === 'workers' && threads.isMainThread)
	new threads.Worker(__filename, { argv: process.argv.slice(2) }).on('error', fail);
else
	connectAll(how === 'http' ? connectHttp : connectNet);
