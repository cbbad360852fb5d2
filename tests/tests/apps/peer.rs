//! A client at the level of packets.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use bench::client::{Reader, Writer, open};
use serde_json::{Value, json};
use tests::token;

const WITHIN: Duration = Duration::from_secs(30);

/// A client in `/chat`.
pub(crate) struct Peer {
    reader: Reader,
    writer: Writer,
    next: u64,
    /// Packets that nobody has asked for yet.
    heard: Vec<String>,
}

impl Peer {
    /// A guest.
    pub(crate) async fn guest(url: &str) -> Result<Self> {
        Self::connect(url, None).await
    }

    /// A user of that name.
    pub(crate) async fn user(url: &str, name: &str) -> Result<Self> {
        Self::connect(url, Some(&token(name, &[])?)).await
    }

    pub(crate) async fn connect(url: &str, token: Option<&str>) -> Result<Self> {
        let (peer, answer) = Self::knock(url, token).await?;
        ensure!(answer.starts_with("40/chat"), "{answer}");
        Ok(peer)
    }

    /// Asks to be let in; what the server says to that.
    pub(crate) async fn knock(url: &str, token: Option<&str>) -> Result<(Self, String)> {
        let address: SocketAddr = url.trim_start_matches("http://").parse()?;
        let (reader, mut writer) = open(address).await?;
        let auth = token.map_or(json!({}), |token| json!({ "token": token }));
        writer.text(&format!("40/chat,{auth}")).await?;
        let mut peer = Self {
            reader,
            writer,
            next: 0,
            heard: Vec::new(),
        };
        let answer = peer
            .packet("an answer to CONNECT", |text| {
                text.starts_with("40") || text.starts_with("44")
            })
            .await?;
        Ok((peer, answer))
    }

    /// Sends an event that asks for an answer; the number of the answer.
    pub(crate) async fn send(&mut self, event: &str, args: &[Value]) -> Result<u64> {
        let number = self.next;
        self.next += 1;
        self.emit_as(&number.to_string(), event, args).await?;
        Ok(number)
    }

    /// Sends an event that does not.
    pub(crate) async fn emit(&mut self, event: &str, args: &[Value]) -> Result<()> {
        self.emit_as("", event, args).await
    }

    async fn emit_as(&mut self, number: &str, event: &str, args: &[Value]) -> Result<()> {
        let all: Vec<Value> = [json!(event)].iter().chain(args).cloned().collect();
        self.writer
            .text(&format!("42/chat,{number}{}", Value::from(all)))
            .await
    }

    /// All arguments of an answer.
    pub(crate) async fn answer(&mut self, number: u64) -> Result<Vec<Value>> {
        let prefix = format!("43/chat,{number}[");
        let ack = self
            .packet(&format!("answer {number}"), |text| text.starts_with(&prefix))
            .await?;
        Ok(serde_json::from_str(&ack[prefix.len() - 1..])?)
    }

    /// Sends and waits for the first argument of the answer.
    pub(crate) async fn ask(&mut self, event: &str, args: &[Value]) -> Result<Value> {
        let number = self.send(event, args).await?;
        Ok(self.answer(number).await?.into_iter().next().unwrap_or_default())
    }

    /// Asks and must be refused with this code.
    pub(crate) async fn refused(&mut self, code: &str, event: &str, args: &[Value]) -> Result<Value> {
        let answer = self.ask(event, args).await?;
        ensure!(
            answer["status"] == "error" && answer["code"] == code,
            "{code} was expected: {answer}"
        );
        Ok(answer)
    }

    /// The arguments of the next event of this name.
    pub(crate) async fn event(&mut self, name: &str) -> Result<Vec<Value>> {
        let prefix = format!("42/chat,[{}", json!(name));
        let event = self.packet(name, |text| text.starts_with(&prefix)).await?;
        let all: Vec<Value> = serde_json::from_str(event.trim_start_matches("42/chat,"))?;
        Ok(all.into_iter().skip(1).collect())
    }

    /// What was heard so far of this event.
    pub(crate) fn has_heard(&self, name: &str) -> bool {
        let prefix = format!("42/chat,[{}", json!(name));
        self.heard.iter().any(|text| text.starts_with(&prefix))
    }

    async fn packet(&mut self, what: &str, fits: impl Fn(&str) -> bool) -> Result<String> {
        if let Some(at) = self.heard.iter().position(|text| fits(text)) {
            return Ok(self.heard.remove(at));
        }
        let search = async {
            loop {
                let text = self.reader.text().await?;
                if fits(&text) {
                    return Ok(text);
                }
                match text.as_str() {
                    "2" => self.writer.text("3").await?,
                    _ => self.heard.push(text),
                }
            }
        };
        let found = tokio::time::timeout(WITHIN, search).await;
        found.with_context(|| format!("{what} did not come; heard: {:?}", self.heard))?
    }
}
