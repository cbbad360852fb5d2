//! A client's way to a gateway: HTTP/1.1 over streams in memory, one for polls and one for posts.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{io::duplex, sync::oneshot, task::AbortHandle, time::sleep};

use crate::{dice::Dice, host::Host, node::spawn};

/// Bytes on their way in a stream.
const WINDOW: usize = 64 * 1024;
/// Milliseconds that a request takes, and an answer, at most.
const TRIP: u64 = 40;

/// Why a connection is over.
#[derive(Debug)]
pub(crate) struct Gone(pub(crate) &'static str);

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// One stream, made when it is needed first.
#[derive(Default)]
struct Stream(tokio::sync::Mutex<Option<SendRequest<Full<Bytes>>>>);

/// Dropped, it goes on unheard, as a connection that nobody has reset.
pub(crate) struct Line {
    pub(crate) host: Arc<Host>,
    polls: Arc<Stream>,
    posts: Arc<Stream>,
    running: Arc<Mutex<Vec<AbortHandle>>>,
    dice: Dice,
}

impl Line {
    pub(crate) fn open(host: &Arc<Host>, dice: &Dice) -> Arc<Self> {
        Arc::new(Self {
            host: Arc::clone(host),
            polls: Arc::default(),
            posts: Arc::default(),
            running: Arc::default(),
            dice: Dice::new(dice.number(0..u64::MAX), "line"),
        })
    }

    /// The gateway learns that the client is gone.
    pub(crate) fn reset(&self) {
        let (running, node) = (Arc::clone(&self.running), Arc::clone(&self.host.node));
        spawn(async move {
            node.up().await;
            for task in running.lock().drain(..) {
                task.abort();
            }
        });
    }

    /// A poll; without `sid` it opens a session.
    pub(crate) async fn poll(&self, sid: &str) -> Result<String, Gone> {
        self.exchange(&self.polls, Method::GET, sid, String::new()).await
    }

    pub(crate) async fn post(&self, sid: &str, body: String) -> Result<(), Gone> {
        self.exchange(&self.posts, Method::POST, sid, body)
            .await
            .map(drop)
    }

    async fn exchange(
        &self,
        stream: &Arc<Stream>,
        method: Method,
        sid: &str,
        body: String,
    ) -> Result<String, Gone> {
        sleep(self.dice.time(0..TRIP)).await;
        let node = &self.host.node;
        let (host, stream, running) = (
            Arc::clone(&self.host),
            Arc::clone(stream),
            Arc::clone(&self.running),
        );
        let request = request(method, sid, body).map_err(|_| Gone("no request"))?;
        let (sender, answered) = oneshot::channel();
        let asking = spawn(async move {
            host.node.up().await;
            // Who asked may be gone.
            let _ = sender.send(ask(&host, &stream, &running, request).await);
        });
        self.running.lock().push(asking.abort_handle());
        let answer = tokio::select! {
            answer = answered => answer.unwrap_or(Err(Gone("reset"))),
            () = node.dead() => Err(Gone("dead")),
        };
        tokio::select! {
            () = node.up() => {}
            () = node.dead() => return Err(Gone("dead")),
        }
        sleep(self.dice.time(0..TRIP)).await;
        answer
    }
}

fn request(method: Method, sid: &str, body: String) -> http::Result<Request<Full<Bytes>>> {
    let sid = if sid.is_empty() {
        String::new()
    } else {
        format!("&sid={sid}")
    };
    Request::builder()
        .method(method)
        .uri(format!("/socket.io/?EIO=4&transport=polling{sid}"))
        .header(header::HOST, "gateway")
        .header(header::CONTENT_TYPE, "text/plain")
        .body(Full::new(body.into()))
}

async fn ask(
    host: &Arc<Host>,
    stream: &Stream,
    running: &Mutex<Vec<AbortHandle>>,
    request: Request<Full<Bytes>>,
) -> Result<String, Gone> {
    let mut sender = stream.0.lock().await;
    let sender = match &mut *sender {
        Some(sender) => sender,
        none => {
            if !host.is_open() {
                return Err(Gone("refused"));
            }
            let (here, there) = duplex(WINDOW);
            host.accept(there);
            let (sender, connection) = handshake(TokioIo::new(here))
                .await
                .map_err(|_| Gone("no connection"))?;
            let connection = spawn(async move {
                // Its requests fail with it.
                let _ = connection.await;
            });
            running.lock().push(connection.abort_handle());
            none.insert(sender)
        }
    };
    let response = sender.send_request(request).await.map_err(|_| Gone("reset"))?;
    if response.status() != StatusCode::OK {
        return Err(Gone("not found"));
    }
    let body = response.into_body().collect().await.map_err(|_| Gone("reset"))?;
    String::from_utf8(body.to_bytes().to_vec()).map_err(|_| Gone("no text"))
}
