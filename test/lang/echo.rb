#!/usr/bin/ruby
# SPDX-License-Identifier: Apache-2.0
# The echo in Ruby: a thread for each connection. echo.c says how it is called.
require 'socket'

SIZES = [1, 100, 5000, 60000].freeze
what, addr, port, file, out, n, go = ARGV

if what == 'serve'
  trap('TERM') { exit!(0) }
  Thread.abort_on_exception = true
  server = TCPServer.new(addr, port)
  loop do
    Thread.new(server.accept) do |s|
      loop { s.write(s.readpartial(30000)) }
    rescue EOFError
      s.close
    end
  end
end

data = File.binread(file)
back = Queue.new
threads = (0...n.to_i).map do |nr|
  Thread.new do
    s = TCPSocket.new(addr, port)
    File.open("#{out}.#{nr}", 'wb') do |save|
      at = 0
      SIZES.cycle do |size|
        piece = data.byteslice(at, size)
        s.write(piece)
        got = s.read(piece.bytesize)
        raise 'end of file too soon' unless got && got.bytesize == piece.bytesize

        save.write(got)
        at += size
        break if at >= data.bytesize
      end
    end
    back << nr
    sleep 0.01 until File.exist?(go)
    s.close_write
    raise 'more came back than was sent' unless s.read == ''

    s.close
  end
end
n.to_i.times { back.pop } if threads.all?
puts 'all back'
$stdout.flush
threads.each(&:join)
