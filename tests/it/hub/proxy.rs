//! A proxy on this machine that leads to a fake hub, whoever is asked for.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use super::FakeHub;

/// The proxy; it ends with the tests.
pub(crate) struct FakeProxy {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl FakeProxy {
    pub(crate) fn before(hub: &FakeHub) -> Self {
        Self::answering(hub, 200)
    }

    /// A proxy that answers with this status, and carries nothing unless it is 200.
    pub(crate) fn answering(hub: &FakeHub, status: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let proxy = Self {
            port: listener.local_addr().expect("an address").port(),
            asked: Arc::default(),
        };
        let (asked, hub) = (proxy.asked.clone(), hub.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (asked, hub) = (asked.clone(), hub.clone());
                thread::spawn(move || tunnel(stream, &hub, &asked, status));
            }
        });
        proxy
    }

    pub(crate) fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The hosts that were asked for, with their ports.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no tunnel panics").clone()
    }
}

/// Carries all bytes between a client and the hub (RFC 9110, section 9.3.6).
fn tunnel(client: TcpStream, hub: &FakeHub, asked: &Mutex<Vec<String>>, status: u16) -> Option<()> {
    let mut lines = BufReader::new(&client).lines().map_while(Result::ok);
    let first = lines.next()?;
    let host = first
        .strip_prefix("CONNECT ")?
        .split(' ')
        .next()?
        .to_owned();
    lines.find(String::is_empty)?;
    asked.lock().expect("no tunnel panics").push(host);
    let hub = TcpStream::connect(hub.endpoint().strip_prefix("http://")?).ok()?;
    write!(&client, "HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n").ok()?;
    if status != 200 {
        return None;
    }
    thread::scope(|scope| {
        scope.spawn(|| carry(&client, &hub));
        carry(&hub, &client);
    });
    Some(())
}

/// Carries bytes one way until they end.
fn carry(mut from: &TcpStream, mut to: &TcpStream) {
    // Either side may go when it has what it wanted.
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
