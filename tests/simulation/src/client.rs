//! A client as the stock one is: long-polling, acknowledgements, and coming back with its `pid` and the position of
//! the last event it got.

use std::{collections::HashMap, sync::Arc, time::Duration};

use model::Offset;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    sync::{Notify, oneshot, watch},
    time::{sleep, timeout},
};

use crate::{
    dice::Dice,
    host::Host,
    line::{Gone, Line},
    truth::Stored,
    view::{Broken, View},
    world::World,
};

const NAMESPACE: &str = "/chat";
/// A connection must be made in this time.
const CONNECT: Duration = Duration::from_secs(20);

pub(crate) struct Client {
    pub(crate) name: String,
    pub(crate) dice: Dice,
    token: String,
    /// Hands on what comes before its CONNECT is answered at once, and so comes back from behind it; the stock
    /// client keeps it until then.
    eager: bool,
    world: Arc<World>,
    state: Mutex<State>,
    /// Counts connections; even while there is none.
    connection: watch::Sender<u64>,
    outbox: Notify,
    cut: Notify,
}

struct State {
    view: View,
    pid: Option<String>,
    position: Option<String>,
    /// Where the session was last, and where it may be since.
    hosts: Vec<Arc<Host>>,
    /// How the next cut is.
    silent: bool,
    next_ack: u64,
    acks: HashMap<u64, Asked>,
    packets: Vec<String>,
    recovered: usize,
    fresh: usize,
}

/// What was asked and is not answered.
struct Asked {
    what: Question,
    answer: oneshot::Sender<Value>,
}

/// What a client may ask.
#[derive(Clone, Debug)]
pub(crate) enum Question {
    Join {
        room: String,
        history: usize,
    },
    Leave {
        room: String,
    },
    Message {
        room: String,
        content: String,
    },
    Page {
        room: String,
        after: Offset,
        limit: usize,
    },
}

/// What comes from the gateway while a connection is being made.
struct Early(Vec<String>);

impl Question {
    fn event(&self) -> Value {
        match self {
            Self::Join { room, history } => json!(["join-room", { "roomId": room, "history": history }]),
            Self::Leave { room } => json!(["leave-room", { "roomId": room }]),
            Self::Message { room, content } => {
                json!(["message", { "roomId": room, "content": content, "clientId": content }])
            }
            Self::Page { room, after, limit } => {
                json!(["getMessages", { "roomId": room, "after": after.to_string(), "limit": limit }])
            }
        }
    }

    pub(crate) fn room(&self) -> &str {
        match self {
            Self::Join { room, .. }
            | Self::Leave { room }
            | Self::Message { room, .. }
            | Self::Page { room, .. } => room,
        }
    }
}

/// A message as events and history show it.
pub(crate) fn message(body: &Value) -> Option<Stored> {
    Some(Stored {
        offset: body["offset"].as_str()?.parse().ok()?,
        id: body["id"].as_str()?.to_owned(),
        content: body["content"].as_str()?.to_owned(),
    })
}

/// All messages of a list.
pub(crate) fn messages(list: &Value) -> Vec<Stored> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(message)
        .collect()
}

impl Client {
    pub(crate) fn new(world: &Arc<World>, number: usize, token: String) -> Arc<Self> {
        let name = format!("client {number}");
        let dice = Dice::new(world.seed, &name);
        Arc::new(Self {
            eager: dice.percent(50),
            dice,
            name,
            token,
            world: Arc::clone(world),
            state: Mutex::new(State {
                view: View::new(&world.truth),
                pid: None,
                position: None,
                hosts: Vec::new(),
                silent: false,
                next_ack: 0,
                acks: HashMap::new(),
                packets: Vec::new(),
                recovered: 0,
                fresh: 0,
            }),
            connection: watch::Sender::new(0),
            outbox: Notify::new(),
            cut: Notify::new(),
        })
    }

    pub(crate) fn view<T>(&self, look: impl FnOnce(&View) -> T) -> T {
        look(&self.state.lock().view)
    }

    /// Times it came back as who it was, and as somebody new.
    pub(crate) fn returns(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.recovered, state.fresh)
    }

    pub(crate) fn is_connected(&self) -> bool {
        *self.connection.borrow() % 2 == 1
    }

    /// Breaks its connection; a `silent` cut the gateway does not notice.
    pub(crate) fn cut(&self, silent: bool) {
        self.state.lock().silent = silent;
        self.cut.notify_one();
    }

    fn note(&self, room: &str, what: impl Into<String>) {
        self.world.trace.note(&self.name, room, what);
    }

    fn check(&self, checked: Result<(), Broken>) {
        if let Err(broken) = checked {
            self.world.broken(&self.name, &broken);
        }
    }

    /// Sends a question with the next packets; the answer fails when the connection ends before.
    pub(crate) fn send(&self, what: Question) -> oneshot::Receiver<Value> {
        let (answer, answered) = oneshot::channel();
        if !self.is_connected() {
            return answered;
        }
        let mut state = self.state.lock();
        match &what {
            Question::Join { room, .. } => state.view.joining(room),
            Question::Leave { room } => state.view.leaving(room),
            Question::Message { .. } | Question::Page { .. } => {}
        }
        state.next_ack += 1;
        let number = state.next_ack;
        let packet = format!("42{NAMESPACE},{number}{}", what.event());
        state.packets.push(packet);
        self.note(what.room(), format!("asks {number}: {}", what.event()));
        state.acks.insert(number, Asked { what, answer });
        drop(state);
        self.outbox.notify_one();
        answered
    }

    /// Waits until it is connected.
    pub(crate) async fn connected(&self) {
        let mut connection = self.connection.subscribe();
        // The sender is this client's own.
        let _ = connection.wait_for(|number| number % 2 == 1).await;
    }

    /// Stays connected for good.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut tries = 0_u32;
        loop {
            let before = *self.connection.borrow();
            match self.world.open_host(&self.dice) {
                Some(host) => {
                    let end = self.one_connection(&host).await;
                    self.note("", format!("off {}: {end}", host.node.name));
                }
                None => self.note("", "finds no gateway"),
            }
            if *self.connection.borrow() % 2 == 1 {
                self.connection.send_modify(|number| *number += 1);
            }
            tries = if *self.connection.borrow() == before {
                tries + 1
            } else {
                0
            };
            {
                let mut state = self.state.lock();
                state.acks.clear();
                state.packets.clear();
            }
            let most = (100_u64 << tries.min(4)).min(1000);
            sleep(self.dice.time(most / 2..most)).await;
        }
    }

    /// Runs one connection to its end.
    async fn one_connection(self: &Arc<Self>, host: &Arc<Host>) -> String {
        let line = Line::open(host, &self.dice);
        let end = tokio::select! {
            end = self.talk(&line) => match end {
                Ok(()) => "closed".to_owned(),
                Err(gone) => gone.to_string(),
            },
            () = self.cut.notified() => "cut".to_owned(),
        };
        let silent = std::mem::take(&mut self.state.lock().silent);
        if !silent {
            line.reset();
        }
        end
    }

    async fn talk(self: &Arc<Self>, line: &Arc<Line>) -> Result<(), Gone> {
        let (sid, patience) = timeout(CONNECT, self.handshake(line))
            .await
            .unwrap_or(Err(Gone("no handshake")))?;
        let claim = self.claim(&line.host);
        self.note(
            "",
            format!(
                "at {}: {}",
                line.host.node.name,
                if claim["pid"].is_null() { "new" } else { "back" }
            ),
        );
        line.post(&sid, format!("40{NAMESPACE},{claim}")).await?;
        let mut early = Early(Vec::new());
        let mut asked = claim["pid"].as_str().map(str::to_owned);
        let connected = Notify::new();
        let hear = async {
            loop {
                let heard = timeout(patience, line.poll(&sid)).await;
                let body = heard.unwrap_or(Err(Gone("silence")))?;
                for packet in body.split('\x1e') {
                    match packet.as_bytes().first() {
                        Some(b'2') => {
                            self.state.lock().packets.push("3".to_owned());
                            self.outbox.notify_one();
                        }
                        Some(b'4') => self.packet(packet, &line.host, &mut asked, &mut early, &connected)?,
                        Some(b'1') => return Ok(()),
                        _ => {}
                    }
                }
            }
        };
        let say = async {
            // Nothing but the CONNECT goes out before it is answered, as with the stock client; the heartbeat does.
            loop {
                let packets = std::mem::take(&mut self.state.lock().packets);
                if packets.is_empty() {
                    self.outbox.notified().await;
                    continue;
                }
                line.post(&sid, packets.join("\x1e")).await?;
            }
        };
        let late = async {
            let in_time = timeout(CONNECT, connected.notified()).await;
            if in_time.is_ok() {
                std::future::pending::<()>().await;
            }
            Err(Gone("CONNECT is not answered"))
        };
        tokio::select! {
            end = hear => end,
            end = say => end,
            end = late => end,
        }
    }

    async fn handshake(&self, line: &Arc<Line>) -> Result<(String, Duration), Gone> {
        let body = line.poll("").await?;
        let open: Value = body
            .strip_prefix('0')
            .and_then(|open| serde_json::from_str(open).ok())
            .ok_or(Gone("no open packet"))?;
        let sid = open["sid"].as_str().ok_or(Gone("no sid"))?.to_owned();
        let millis = |key: &str| open[key].as_u64().unwrap_or_default();
        Ok((
            sid,
            Duration::from_millis(millis("pingInterval") + millis("pingTimeout")),
        ))
    }

    /// What its CONNECT says.
    fn claim(&self, host: &Arc<Host>) -> Value {
        let mut state = self.state.lock();
        let mut claim = json!({ "token": self.token });
        if let Some(pid) = state.pid.clone() {
            claim["pid"] = pid.into();
            if let Some(position) = &state.position {
                claim["offset"] = position.as_str().into();
            }
            state.hosts.push(Arc::clone(host));
            let doubtful = state.hosts.iter().any(|host| host.is_doubtful());
            state.view.asks_back(doubtful);
        }
        claim
    }

    fn packet(
        &self,
        packet: &str,
        host: &Arc<Host>,
        asked: &mut Option<String>,
        early: &mut Early,
        connected: &Notify,
    ) -> Result<(), Gone> {
        let Some((kind, rest)) = packet.split_once(',') else {
            return Err(Gone("another namespace"));
        };
        match kind {
            "40/chat" => {
                let answer: Value = serde_json::from_str(rest).map_err(|_| Gone("not JSON"))?;
                let pid = answer["pid"].as_str().map(str::to_owned);
                let before = asked.take();
                let recovered = before.is_some() && before == pid;
                if recovered {
                    for packet in std::mem::take(&mut early.0) {
                        self.event(&packet);
                    }
                }
                let mut state = self.state.lock();
                if recovered {
                    state.recovered += 1;
                } else {
                    state.fresh += usize::from(before.is_some());
                    state.view.fresh();
                    state.position = None;
                }
                state.pid = pid;
                state.hosts = vec![Arc::clone(host)];
                drop(state);
                self.note("", if recovered { "recovered" } else { "connected" });
                // What came before an answer that makes it somebody new was for that one.
                for packet in std::mem::take(&mut early.0) {
                    self.event(&packet);
                }
                self.connection.send_modify(|number| *number += 1);
                connected.notify_one();
                Ok(())
            }
            "42/chat" if !self.is_connected() && !self.eager => {
                early.0.push(rest.to_owned());
                Ok(())
            }
            "42/chat" => {
                self.event(rest);
                Ok(())
            }
            _ if kind.starts_with("43/chat") => {
                self.answered(rest);
                Ok(())
            }
            _ => Err(Gone("refused")),
        }
    }

    fn event(&self, packet: &str) {
        let Ok(Value::Array(event)) = serde_json::from_str(packet) else {
            return;
        };
        let mut state = self.state.lock();
        if let Some(position) = event.last().and_then(Value::as_str).filter(|_| event.len() > 1) {
            state.position = Some(position.to_owned());
        }
        if let [name, body, ..] = event.as_slice()
            && name == "message"
            && let (Some(message), Some(room)) = (message(body), body["roomId"].as_str())
        {
            self.note(room, format!("gets {} {}", message.offset, message.content));
            let checked = state.view.message(room, &message);
            drop(state);
            self.check(checked);
        }
    }

    fn answered(&self, packet: &str) {
        let digits = packet.bytes().take_while(u8::is_ascii_digit).count();
        let (number, args) = packet.split_at(digits);
        let (Ok(number), Ok(args)) = (number.parse::<u64>(), serde_json::from_str::<Value>(args)) else {
            return;
        };
        let answer = args[0].clone();
        let mut state = self.state.lock();
        let Some(Asked { what, answer: sender }) = state.acks.remove(&number) else {
            return;
        };
        let offset = answer["offset"]
            .as_str()
            .and_then(|offset| offset.parse::<Offset>().ok());
        let shown = offset.map(|offset| offset.to_string()).unwrap_or_default();
        self.note(
            what.room(),
            format!("answer {number}: {} {shown}{}", answer["status"], answer["code"]),
        );
        let checked = match (&what, answer["status"] == "ok", offset) {
            (Question::Join { room, history }, true, Some(offset)) => {
                let history = (*history > 0).then(|| (*history, messages(&answer["messages"])));
                state.view.joined(room, offset.seq, history)
            }
            (Question::Leave { room }, true, _) => {
                state.view.left(room);
                Ok(())
            }
            (Question::Message { room, content }, true, Some(offset)) => {
                let stored = self.world.truth.at(room, offset.seq);
                let is_there =
                    stored.is_some_and(|stored| stored.content == *content && answer["id"] == stored.id);
                if is_there {
                    self.world.acknowledged();
                    Ok(())
                } else {
                    Err(Broken {
                        room: room.clone(),
                        what: format!("{content} was acknowledged at {offset} and is not there"),
                    })
                }
            }
            _ => Ok(()),
        };
        drop(state);
        self.check(checked);
        // Who asked may have given up.
        let _ = sender.send(answer);
    }
}
