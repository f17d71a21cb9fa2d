// SPDX-License-Identifier: Apache-2.0
// The echo in Java: java Echo.java blocking|nio|http, then as echo.c.

import com.sun.net.httpserver.HttpServer;
import java.io.DataInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.ByteBuffer;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CyclicBarrier;
import java.util.concurrent.Executors;

public class Echo {
	static final int[] SIZES = { 1, 100, 5000, 60000 };
	static InetSocketAddress where;
	static byte[] data;
	static String out;
	static Path go;
	static CyclicBarrier back;

	interface Work {
		void run() throws Exception;
	}

	static Thread thread(Work work) {
		Thread t = new Thread(() -> {
			try {
				work.run();
			} catch (Exception e) {
				e.printStackTrace();
				System.exit(1);
			}
		});
		t.start();
		return t;
	}

	static void waitGo() throws Exception {
		back.await();
		while (!Files.exists(go))
			Thread.sleep(10);
	}

	static void check(boolean ok, String what) throws IOException {
		if (!ok)
			throw new IOException(what);
	}

	// ---- servers ----

	static void echo(Socket s) throws IOException {
		try (s) {
			s.getInputStream().transferTo(s.getOutputStream());
		}
	}

	static void serveBlocking() throws Exception {
		ServerSocket l = new ServerSocket();
		l.bind(where, 100);
		for (;;) {
			Socket s = l.accept();
			thread(() -> echo(s));
		}
	}

	static void serveNio() throws Exception {
		Selector sel = Selector.open();
		ServerSocketChannel l = ServerSocketChannel.open();
		l.bind(where, 100);
		l.configureBlocking(false);
		l.register(sel, SelectionKey.OP_ACCEPT);
		// Others wake the selector, as frameworks' threads do.
		Thread waker = thread(() -> {
			for (;;) {
				Thread.sleep(1);
				sel.wakeup();
			}
		});
		waker.setName("waker");
		for (;;) {
			sel.select();
			for (SelectionKey k : sel.selectedKeys()) {
				if (k.isAcceptable()) {
					SocketChannel c = l.accept();
					c.configureBlocking(false);
					c.register(sel, SelectionKey.OP_READ, ByteBuffer.allocateDirect(30000));
					continue;
				}
				SocketChannel c = (SocketChannel) k.channel();
				ByteBuffer buf = (ByteBuffer) k.attachment();
				if (k.isReadable() && c.read(buf) < 0) {
					c.close();
					continue;
				}
				buf.flip();
				c.write(buf);
				k.interestOps(buf.hasRemaining() ? SelectionKey.OP_WRITE : SelectionKey.OP_READ);
				buf.compact();
			}
			sel.selectedKeys().clear();
		}
	}

	static void serveHttp() throws Exception {
		HttpServer s = HttpServer.create(where, 2000);
		s.createContext("/", (x) -> {
			byte[] body = x.getRequestBody().readAllBytes();
			x.sendResponseHeaders(200, body.length);
			x.getResponseBody().write(body);
			x.close();
		});
		s.setExecutor(Executors.newCachedThreadPool());
		s.start();
	}

	// ---- clients: connection nr ----

	static void connectBlocking(int nr) throws Exception {
		byte[] buf = new byte[SIZES[3]];
		try (Socket s = new Socket(where.getAddress(), where.getPort());
				OutputStream save = Files.newOutputStream(Path.of(out + "." + nr))) {
			DataInputStream in = new DataInputStream(s.getInputStream());
			for (int at = 0, i = 0; at < data.length; i++) {
				int len = Math.min(SIZES[i % 4], data.length - at);
				s.getOutputStream().write(data, at, len);
				in.readFully(buf, 0, len);
				save.write(buf, 0, len);
				at += len;
			}
			waitGo();
			s.shutdownOutput();
			check(in.read() < 0, "more came back than was sent");
		}
	}

	static void connectNio(int nr) throws Exception {
		ByteBuffer src = ByteBuffer.wrap(data), buf = ByteBuffer.allocateDirect(50000);
		int got = 0;
		try (SocketChannel c = SocketChannel.open(where); Selector sel = Selector.open();
				OutputStream save = Files.newOutputStream(Path.of(out + "." + nr))) {
			c.configureBlocking(false);
			SelectionKey k = c.register(sel, SelectionKey.OP_READ | SelectionKey.OP_WRITE);
			while (got < data.length) {
				sel.select();
				sel.selectedKeys().clear();
				if (k.isWritable()) {
					c.write(src);
					if (!src.hasRemaining())
						k.interestOps(SelectionKey.OP_READ);
				}
				if (k.isReadable()) {
					check(c.read(buf) >= 0, "end of file too soon");
					got += buf.flip().remaining();
					byte[] some = new byte[buf.remaining()];
					buf.get(some);
					save.write(some);
					buf.clear();
				}
			}
			waitGo();
			c.shutdownOutput();
			sel.select();
			check(c.read(buf) < 0, "more came back than was sent");
		}
	}

	static void connectHttp(int nr) throws Exception {
		HttpClient http = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
		URI uri = URI.create("http://" + where.getAddress().getHostAddress() + ":" + where.getPort() + "/");
		try (OutputStream save = Files.newOutputStream(Path.of(out + "." + nr))) {
			for (int at = 0, i = 0; at < data.length; i++) {
				int len = Math.min(SIZES[i % 4], data.length - at);
				HttpResponse<InputStream> r = http.send(
						HttpRequest.newBuilder(uri).POST(HttpRequest.BodyPublishers
								.ofByteArray(data, at, len)).build(),
						HttpResponse.BodyHandlers.ofInputStream());
				check(r.statusCode() == 200, "status " + r.statusCode());
				r.body().transferTo(save);
				at += len;
			}
		}
		waitGo();
	}

	public static void main(String[] args) throws Exception {
		String how = args[0];
		where = new InetSocketAddress(InetAddress.getByName(args[2]), Integer.parseInt(args[3]));
		if (args[1].equals("serve")) {
			if (how.equals("blocking"))
				serveBlocking();
			else if (how.equals("nio"))
				serveNio();
			else
				serveHttp();
			return;
		}
		data = Files.readAllBytes(Path.of(args[4]));
		out = args[5];
		int n = Integer.parseInt(args[6]);
		go = Path.of(args[7]);
		back = new CyclicBarrier(n, () -> System.out.println("all back"));
		List<Thread> threads = new ArrayList<>();
		for (int i = 0; i < n; i++) {
			int nr = i;
			threads.add(thread(() -> {
				if (how.equals("blocking"))
					connectBlocking(nr);
				else if (how.equals("nio"))
					connectNio(nr);
				else
					connectHttp(nr);
			}));
		}
		for (Thread t : threads)
			t.join();
		System.exit(0);
	}
}
