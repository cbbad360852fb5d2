use std::time::Duration;

use bench::client::{Reader, Writer, open};
use serde_json::{Value, json};

use crate::alone::Alone;

/// Nothing that must come takes longer, however busy the machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Somebody in `/chat`.
pub(crate) struct Client {
    pub(crate) reader: Reader,
    pub(crate) writer: Writer,
    pub(crate) next: u64,
    /// The socket's public id.
    pub(crate) id: String,
    /// What its session can be taken up again with.
    pub(crate) pid: String,
}

/// What came: an answer to an event, or an event of the server's.
#[derive(Debug, PartialEq)]
pub(crate) enum Heard {
    Ack(u64, Value),
    Event(String, Value),
    Disconnected,
    Closed,
}

impl Client {
    pub(crate) async fn new(stage: &Alone) -> Self {
        Self::enter(stage, &json!({})).await
    }

    pub(crate) async fn with_token(stage: &Alone, token: &str) -> Self {
        Self::enter(stage, &json!({ "token": token })).await
    }

    async fn enter(stage: &Alone, auth: &Value) -> Self {
        let (mut reader, mut writer) = open(stage.addr).await.unwrap();
        writer.text(&format!("40/chat,{auth}")).await.unwrap();
        let connected = reader.text().await.unwrap();
        let connected: Value = serde_json::from_str(connected.strip_prefix("40/chat,").unwrap()).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Self {
            reader,
            writer,
            next: 0,
            id: text(&connected["sid"]),
            pid: text(&connected["pid"]),
        }
    }

    pub(crate) async fn emit(&mut self, event: &str) {
        let packet = format!("42/chat,{}{}", self.next, json!([event, {}]));
        self.next += 1;
        self.writer.text(&packet).await.unwrap();
    }

    pub(crate) async fn hear(&mut self) -> Heard {
        loop {
            let text = tokio::time::timeout(PATIENCE, self.reader.text()).await.unwrap();
            let Ok(text) = text else {
                return Heard::Closed;
            };
            if text.starts_with("41/chat") {
                return Heard::Disconnected;
            }
            if let Some(answer) = text.strip_prefix("43/chat,") {
                let (number, json) = answer.split_once('[').unwrap();
                let arguments: Value = serde_json::from_str(&format!("[{json}")).unwrap();
                return Heard::Ack(number.parse().unwrap(), arguments[0].clone());
            }
            if let Some(event) = text.strip_prefix("42/chat,") {
                let event: Value = serde_json::from_str(event).unwrap();
                return Heard::Event(event[0].as_str().unwrap().to_owned(), event[1].clone());
            }
        }
    }

    /// The answer to the next event that is sent.
    pub(crate) async fn ask(&mut self, event: &str) -> Value {
        let number = self.next;
        self.emit(event).await;
        match self.hear().await {
            Heard::Ack(answered, answer) if answered == number => answer,
            other => panic!("{event}: {other:?}"),
        }
    }
}
