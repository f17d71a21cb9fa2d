// SPDX-License-Identifier: Apache-2.0
// The echo in Rust, std only, a thread for each connection. echo.c says how it is called.
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

const SIZES: [usize; 4] = [1, 100, 5000, 60000];

fn echo(mut s: TcpStream) {
    let mut buf = [0; 30000];
    loop {
        let n = s.read(&mut buf).unwrap();
        if n == 0 {
            return;
        }
        s.write_all(&buf[..n]).unwrap();
    }
}

fn connect(to: &str, data: &[u8], out: &str, go: &str, back: &Barrier) {
    let mut s = TcpStream::connect(to).unwrap();
    let mut save = fs::File::create(out).unwrap();
    let mut buf = vec![0; SIZES[3]];
    let (mut at, mut i) = (0, 0);
    while at < data.len() {
        let len = SIZES[i % 4].min(data.len() - at);
        s.write_all(&data[at..at + len]).unwrap();
        s.read_exact(&mut buf[..len]).unwrap();
        save.write_all(&buf[..len]).unwrap();
        at += len;
        i += 1;
    }
    if back.wait().is_leader() {
        println!("all back");
    }
    while !Path::new(go).exists() {
        thread::sleep(Duration::from_millis(10));
    }
    s.shutdown(Shutdown::Write).unwrap();
    assert_eq!(s.read(&mut buf).unwrap(), 0);
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let to = format!("{}:{}", args[2], args[3]);
    if args[1] == "serve" {
        for s in TcpListener::bind(to).unwrap().incoming() {
            let s = s.unwrap();
            thread::spawn(move || echo(s));
        }
        return;
    }
    let data = Arc::new(fs::read(&args[4]).unwrap());
    let n: usize = args[6].parse().unwrap();
    let back = Arc::new(Barrier::new(n));
    let threads: Vec<_> = (0..n)
        .map(|i| {
            let (to, data, back) = (to.clone(), data.clone(), back.clone());
            let (out, go) = (format!("{}.{}", args[5], i), args[7].clone());
            thread::spawn(move || connect(&to, &data, &out, &go, &back))
        })
        .collect();
    for t in threads {
        t.join().unwrap();
    }
}
