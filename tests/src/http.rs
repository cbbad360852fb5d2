use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::server::START;

/// The answer to a request over HTTP.
#[derive(Debug)]
pub struct HttpAnswer {
    /// 200 and so on.
    pub status: u16,
    /// Status line and headers.
    pub head: String,
    /// The body as JSON; null when it is none.
    pub body: Value,
}

impl HttpAnswer {
    /// A header by its name in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The answer itself, if it has this status.
    ///
    /// # Errors
    /// When it has another one.
    pub fn expect(self, status: u16) -> Result<Self> {
        ensure!(self.status == status, "not {status}: {self:?}");
        Ok(self)
    }
}

/// A request under way to be made.
pub struct HttpRequest {
    address: SocketAddr,
    head: String,
    body: String,
}

impl HttpRequest {
    /// A request to the server at `address`.
    #[must_use]
    pub fn new(address: SocketAddr, method: &str, path: &str) -> Self {
        Self {
            address,
            head: format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n"),
            body: String::new(),
        }
    }

    /// With a header.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.head += &format!("{name}: {value}\r\n");
        self
    }

    /// With a bearer token.
    #[must_use]
    pub fn token(self, token: &str) -> Self {
        self.with("authorization", &format!("Bearer {token}"))
    }

    /// With a body of JSON.
    #[must_use]
    pub fn json(self, body: &Value) -> Self {
        self.with("content-type", "application/json")
            .body(&body.to_string())
    }

    /// With a body that may be anything.
    #[must_use]
    pub fn body(mut self, body: &str) -> Self {
        body.clone_into(&mut self.body);
        self
    }

    /// Sends it and waits for the answer.
    ///
    /// # Errors
    /// When there is none within 30 s.
    pub fn send(self) -> Result<HttpAnswer> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(START))?;
        let Self { head, body, .. } = self;
        let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no whole answer")?;
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        Ok(HttpAnswer {
            status,
            head: head.to_owned(),
            body: serde_json::from_str(body).unwrap_or_default(),
        })
    }
}
