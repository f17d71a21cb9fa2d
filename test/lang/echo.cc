/* SPDX-License-Identifier: Apache-2.0 */
/* The echo in C++: one thread and poll() at the server, all connections of the client in one poll() too.
 * echo.c says how it is called. */
#include <arpa/inet.h>
#include <cerrno>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <poll.h>
#include <stdexcept>
#include <string>
#include <sys/socket.h>
#include <sys/uio.h>
#include <system_error>
#include <unistd.h>
#include <vector>

namespace
{

int check(ssize_t r, const char *what)
{
	if (r < 0)
		throw std::system_error(errno, std::generic_category(), what);
	return static_cast<int>(r);
}

void nonblocking(int fd)
{
	check(fcntl(fd, F_SETFL, check(fcntl(fd, F_GETFL), "fcntl") | O_NONBLOCK), "fcntl");
}

/* True unless it would block. */
bool would(ssize_t r, const char *what)
{
	if (r < 0 && errno == EAGAIN)
		return false;
	check(r, what);
	return true;
}

/* In two pieces, to use writev(). */
ssize_t send_two(int fd, const char *p, size_t len)
{
	size_t half = len / 2;
	iovec v[2] = { { const_cast<char *>(p), half }, { const_cast<char *>(p) + half, len - half } };

	return writev(fd, v, 2);
}

void serve(const sockaddr_in &addr)
{
	std::map<int, std::string> waiting; /* of each connection: what is to be sent back */
	std::vector<char> buf(30000);
	int one = 1, l = check(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), "socket");

	check(setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)), "setsockopt");
	check(bind(l, reinterpret_cast<const sockaddr *>(&addr), sizeof(addr)), "bind");
	check(listen(l, 100), "listen");
	for (;;) {
		std::vector<pollfd> set{ { l, POLLIN, 0 } };

		for (auto &[fd, back] : waiting)
			set.push_back({ fd, static_cast<short>(back.empty() ? POLLIN : POLLOUT), 0 });
		check(poll(set.data(), set.size(), -1), "poll");
		for (auto &p : set) {
			if (!p.revents)
				continue;
			if (p.fd == l) {
				int c = accept4(l, nullptr, nullptr, SOCK_NONBLOCK);

				if (would(c, "accept"))
					waiting[c];
				continue;
			}
			auto &back = waiting[p.fd];
			ssize_t n = back.empty() ? read(p.fd, buf.data(), buf.size()) :
						   send_two(p.fd, back.data(), back.size());
			if (!would(n, "read or write"))
				continue;
			if (!back.empty()) {
				back.erase(0, n);
			} else if (n) {
				back.assign(buf.data(), n);
			} else {
				close(p.fd);
				waiting.erase(p.fd);
			}
		}
	}
}

void connect_all(const sockaddr_in &addr, const std::string &name, const std::string &out, int n,
		 const std::string &go)
{
	std::ifstream in(name, std::ios::binary);
	const std::string file((std::istreambuf_iterator<char>(in)), {});
	std::vector<pollfd> set;
	std::vector<size_t> sent(n), got(n);
	std::vector<std::ofstream> save;
	std::vector<char> buf(70000);
	bool ended = false;
	int left = n;

	for (int i = 0; i < n; i++) {
		int fd = check(socket(AF_INET, SOCK_STREAM, 0), "socket");

		check(connect(fd, reinterpret_cast<const sockaddr *>(&addr), sizeof(addr)), "connect");
		nonblocking(fd);
		set.push_back({ fd, POLLIN | POLLOUT, 0 });
		save.emplace_back(out + "." + std::to_string(i), std::ios::binary);
	}
	while (left) {
		check(poll(set.data(), n, -1), "poll");
		for (int i = 0; i < n; i++) {
			if (set[i].revents & POLLOUT) {
				ssize_t k = send_two(set[i].fd, file.data() + sent[i],
						     std::min<size_t>(90000, file.size() - sent[i]));
				if (would(k, "writev"))
					sent[i] += k;
				if (sent[i] == file.size())
					set[i].events = POLLIN;
			}
			if (set[i].revents & ~POLLOUT) {
				ssize_t k = readv(set[i].fd, std::vector<iovec>{ { buf.data(), 10 },
							 { buf.data() + 10, buf.size() - 10 } }.data(), 2);
				if (!would(k, "readv"))
					continue;
				if (k == 0 && !ended)
					throw std::runtime_error("end of file too soon");
				if (k == 0) {
					close(set[i].fd);
					set[i].fd = -1;
					left--;
				}
				save[i].write(buf.data(), k);
				got[i] += k;
			}
		}
		bool all = true;
		for (auto g : got)
			all = all && g == file.size();
		if (!all || ended)
			continue;
		std::cout << "all back" << std::endl;
		while (!std::filesystem::exists(go))
			usleep(10000);
		ended = true;
		for (auto &p : set)
			check(shutdown(p.fd, SHUT_WR), "shutdown");
	}
}

} // namespace

int main(int argc, char **argv)
{
	sockaddr_in addr{};

	addr.sin_family = AF_INET;
	if (argc < 4 || inet_pton(AF_INET, argv[2], &addr.sin_addr) != 1)
		return 2;
	addr.sin_port = htons(std::stoi(argv[3]));
	if (std::string(argv[1]) == "serve")
		serve(addr);
	connect_all(addr, argv[4], argv[5], std::stoi(argv[6]), argv[7]);
	return 0;
}
