//! A provider of some channel: an HTTP server that fails as it is told to.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde_json::Value;

/// One call of the webhook.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) at: Instant,
    pub(crate) signature: Option<String>,
    pub(crate) body: Value,
    pub(crate) status: u16,
}

/// Answers each call with what `status` says of its number, 0 for the first; 0 is no answer. Ends when it is dropped.
pub(crate) struct Provider {
    pub(crate) address: SocketAddr,
    calls: Arc<Mutex<Vec<Call>>>,
    over: Arc<AtomicBool>,
    serving: Option<thread::JoinHandle<()>>,
}

impl Provider {
    pub(crate) fn start(status: impl Fn(usize) -> u16 + Send + 'static) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let (calls, over) = (Arc::<Mutex<Vec<Call>>>::default(), Arc::<AtomicBool>::default());
        let (noted, ends) = (Arc::clone(&calls), Arc::clone(&over));
        let serving = thread::spawn(move || {
            let mut silent = Vec::new();
            for stream in listener.incoming().flatten() {
                if ends.load(Ordering::Relaxed) {
                    return;
                }
                let number = noted.lock().unwrap().len();
                let status = status(number);
                let Some((call, mut stream)) = read(stream, status) else {
                    continue;
                };
                noted.lock().unwrap().push(call);
                if status == 0 {
                    silent.push(stream);
                } else {
                    let answer =
                        format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                    let _ = stream.write_all(answer.as_bytes());
                }
            }
        });
        Ok(Self {
            address,
            calls,
            over,
            serving: Some(serving),
        })
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // It waits for somebody.
        let _ = TcpStream::connect(self.address);
        if let Some(serving) = self.serving.take() {
            let _ = serving.join();
        }
    }
}

fn read(stream: TcpStream, status: u16) -> Option<(Call, TcpStream)> {
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let mut reader = BufReader::new(stream);
    let (mut length, mut signature) = (0, None);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            if line == "\r\n" {
                break;
            }
            continue;
        };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().ok()?,
            "fanfare-signature" => signature = Some(value.to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let call = Call {
        at: Instant::now(),
        signature,
        body: serde_json::from_slice(&body).ok()?,
        status,
    };
    Some((call, reader.into_inner()))
}
