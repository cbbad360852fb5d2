//! socketioxide on axum; with `--redis URL` one node of several on its Redis adapter.

use anyhow::Result;
use axum::{Router, serve::ListenerExt};
use peers::{address, flag};
use serde::{Deserialize, Serialize};
use socketioxide::{
    SocketIo,
    adapter::Adapter,
    extract::{AckSender, Data, SocketRef},
    layer::SocketIoLayer,
};
use socketioxide_redis::{RedisAdapter, RedisAdapterCtr};
use tokio::net::TcpListener;

#[derive(Deserialize)]
struct Join {
    #[serde(rename = "roomId")]
    room: String,
}

#[derive(Deserialize, Serialize)]
struct Text {
    #[serde(rename = "roomId")]
    room: String,
    content: String,
}

#[derive(Serialize)]
struct Status {
    status: &'static str,
}

#[derive(Serialize)]
struct Time {
    time: u64,
}

const OK: Status = Status { status: "ok" };

#[tokio::main]
async fn main() -> Result<()> {
    match flag("redis")? {
        None => {
            let (layer, io) = SocketIo::new_layer();
            io.ns("/chat", connected);
            serve(layer).await
        }
        Some(url) => {
            let client = redis::Client::open(format!("{url}?protocol=resp3"))?;
            let adapter = RedisAdapterCtr::new_with_redis(&client).await?;
            let (layer, io) = SocketIo::builder()
                .with_adapter::<RedisAdapter<_>>(adapter)
                .build_layer();
            io.ns("/chat", connected).await?;
            serve(layer).await
        }
    }
}

async fn serve<A: Adapter>(layer: SocketIoLayer<A>) -> Result<()> {
    let listener = TcpListener::bind(address()?).await?;
    println!("listening on {}", listener.local_addr()?);
    let listener = listener.tap_io(|stream| {
        // Without it a delivery waits for the acknowledgement of the one before; a socket that refuses is gone.
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, Router::new().layer(layer)).await?;
    Ok(())
}

async fn connected<A: Adapter>(socket: SocketRef<A>) {
    socket.on("join-room", join);
    socket.on("message", message);
    socket.on("ping", ping);
}

async fn join<A: Adapter>(socket: SocketRef<A>, Data(join): Data<Join>, ack: AckSender<A>) {
    socket.join(join.room);
    // An acknowledgement nobody waits for any more is no error.
    let _ = ack.send(&OK);
}

async fn message<A: Adapter>(socket: SocketRef<A>, Data(text): Data<Text>, ack: AckSender<A>) {
    // A member that cannot take it counts as loss at the generator.
    let _ = socket.within(text.room.clone()).emit("message", &text).await;
    let _ = ack.send(&OK);
}

async fn ping<A: Adapter>(ack: AckSender<A>) {
    let _ = ack.send(&Time { time: 0 });
}
