//! A bare WebSocket broadcast as one would write it with axum: a task a connection, a tokio broadcast channel a
//! room, no protocol but canned replies. Its WebSockets have a small read buffer; axum's default is 128 KiB.

use std::{collections::HashMap, sync::Arc};

use anyhow::Result;
use axum::{
    Router,
    extract::{
        State,
        ws::{Message, Utf8Bytes, WebSocket, WebSocketUpgrade},
    },
    response::Response,
    routing::get,
    serve::ListenerExt,
};
use futures_util::SinkExt;
use parking_lot::Mutex;
use peers::{CONNECTED, OPEN, Packet, address, event, ok, time};
use tokio::{
    net::TcpListener,
    sync::{
        broadcast::{self, error::RecvError},
        mpsc,
    },
};

const READ_BUFFER: usize = 1024;
/// Events that a member may be behind.
const BEHIND: usize = 1024;
const MOST_AT_ONCE: usize = 64;

type Rooms = Arc<Mutex<HashMap<String, broadcast::Sender<Event>>>>;

/// What a room gets.
#[derive(Clone)]
struct Event {
    text: Utf8Bytes,
    answer: Arc<Answer>,
}

/// The publisher is answered when the last member has dropped this, the event written. Answered earlier it would run
/// ahead of the members until they lose events.
struct Answer {
    text: String,
    publisher: mpsc::UnboundedSender<String>,
}

impl Drop for Answer {
    fn drop(&mut self) {
        // The publisher may have gone.
        let _ = self.publisher.send(std::mem::take(&mut self.text));
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let listener = TcpListener::bind(address()?).await?;
    println!("listening on {}", listener.local_addr()?);
    let app = Router::new()
        .route("/socket.io/", get(upgrade))
        .with_state(Rooms::default());
    let listener = listener.tap_io(|stream| {
        // Without it a delivery waits for the acknowledgement of the one before; a socket that refuses is gone.
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, app).await?;
    Ok(())
}

async fn upgrade(upgrade: WebSocketUpgrade, State(rooms): State<Rooms>) -> Response {
    upgrade
        .read_buffer_size(READ_BUFFER)
        .on_upgrade(async move |socket| {
            // It ends when the client does.
            let _ = connection(socket, rooms).await;
        })
}

async fn connection(mut socket: WebSocket, rooms: Rooms) -> Result<()> {
    // Until it joins one, the connection listens to a room that is its own.
    let mut room = broadcast::channel(1).0;
    let mut events = room.subscribe();
    let (publisher, mut answers) = mpsc::unbounded_channel();
    socket.send(Message::text(OPEN)).await?;
    loop {
        tokio::select! {
            message = socket.recv() => {
                let Some(message) = message else { return Ok(()) };
                let Message::Text(text) = message? else { continue };
                let reply = match Packet::parse(&text) {
                    Packet::Connect => CONNECTED.to_owned(),
                    Packet::Join { id, room: name } => {
                        room = rooms.lock().entry(name.to_owned()).or_insert_with(|| broadcast::channel(BEHIND).0).clone();
                        events = room.subscribe();
                        ok(id)
                    }
                    Packet::Message { id, event: name_and_argument, .. } => {
                        // Without members nobody hears it.
                        let _ = room.send(Event {
                            text: event(name_and_argument).into(),
                            answer: Arc::new(Answer {
                                text: ok(id),
                                publisher: publisher.clone(),
                            }),
                        });
                        continue;
                    }
                    Packet::Other { id } => time(id),
                    Packet::Silent => continue,
                };
                socket.send(Message::text(reply)).await?;
            }
            Some(answer) = answers.recv() => socket.send(Message::text(answer)).await?,
            event = events.recv() => {
                let mut next = match event {
                    Ok(event) => Some(event),
                    // The generator counts the loss.
                    Err(RecvError::Lagged(_)) => None,
                    Err(RecvError::Closed) => return Ok(()),
                };
                let mut written = Vec::new();
                while let Some(event) = next {
                    socket.feed(Message::Text(event.text)).await?;
                    written.push(event.answer);
                    next = if written.len() < MOST_AT_ONCE { events.try_recv().ok() } else { None };
                }
                socket.flush().await?;
            }
        }
    }
}
