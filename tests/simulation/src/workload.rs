//! What a client does all the time: joins, leaves, publishes, reads history; again and again until it is answered.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use model::Offset;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    client::{Client, Question, messages},
    view::Broken,
    world::World,
};

/// An answer that does not come in this time is asked for again.
const PATIENCE: Duration = Duration::from_secs(8);
/// What is not answered in this time by a cluster in which nothing is wrong any more never will be.
const WITHIN: Duration = Duration::from_secs(100);
/// Messages of a page.
const PAGE: usize = 7;

/// One client at work.
pub(crate) struct Workload {
    world: Arc<World>,
    client: Arc<Client>,
    /// Where it wants to be, and up to where it has everything, if it ever was there.
    wanted: BTreeMap<String, Option<Offset>>,
    rooms: Vec<String>,
    published: usize,
}

impl Workload {
    pub(crate) fn new(world: &Arc<World>, client: &Arc<Client>, rooms: usize) -> Self {
        Self {
            world: Arc::clone(world),
            client: Arc::clone(client),
            wanted: BTreeMap::new(),
            rooms: (1..=rooms).map(|number| format!("r{number}")).collect(),
            published: 0,
        }
    }

    fn room(&self) -> String {
        self.client.dice.one_of(&self.rooms).cloned().unwrap_or_default()
    }

    /// Works until `end`.
    pub(crate) async fn run(&mut self, end: Instant) {
        let dice = &Arc::clone(&self.client).dice;
        let room = self.room();
        self.wanted.insert(room, None);
        while Instant::now() < end {
            self.be_where_wanted().await;
            match dice.number(0..20) {
                0..=8 => {
                    let room = self.room();
                    self.publish(&room).await;
                }
                9 | 10 => self.burst().await,
                11..=13 => {
                    let room = self.room();
                    self.wanted.entry(room.clone()).or_insert(None);
                    self.join(&room).await;
                }
                14 => {
                    let room = self.room();
                    self.wanted.remove(&room);
                    self.ask(Question::Leave { room }).await;
                }
                15 | 16 => {
                    let room = self.room();
                    self.read_behind(&room, None).await;
                }
                _ => {}
            }
            let most = dice.one_of(&[5, 50, 500, 3000]).copied().unwrap_or(50);
            sleep(dice.time(0..most)).await;
        }
    }

    /// The last word: where it is wanted to be, and everywhere one message more.
    pub(crate) async fn finish(&mut self) {
        self.be_where_wanted().await;
        for room in self.rooms.clone() {
            self.publish(&room).await;
        }
        self.be_where_wanted().await;
    }

    pub(crate) fn client(&self) -> &Arc<Client> {
        &self.client
    }

    /// Whether it is where it wants to be, and has everything.
    pub(crate) fn is_complete(&self) -> bool {
        self.client
            .view(|view| self.wanted.keys().all(|room| view.is_in(room)) && view.missing().is_none())
    }

    /// Gets into the rooms it wants to be in and is not (any more), and reads what it missed.
    async fn be_where_wanted(&mut self) {
        for (room, seen) in &mut self.wanted {
            if let (Some(through), Some(seen)) = (self.client.view(|view| view.through(room)), seen) {
                seen.seq = through;
            }
        }
        for (room, seen) in self.wanted.clone() {
            if self.client.view(|view| view.is_in(&room)) {
                continue;
            }
            self.join(&room).await;
            if let Some(seen) = seen {
                self.read_behind(&room, Some(seen)).await;
            }
        }
    }

    async fn join(&mut self, room: &str) {
        let history = self
            .client
            .dice
            .one_of(&[0, 0, 3, 200])
            .copied()
            .unwrap_or_default();
        let question = Question::Join {
            room: room.to_owned(),
            history,
        };
        let answer = self.ask(question).await;
        let offset = answer["offset"].as_str().and_then(|offset| offset.parse().ok());
        self.wanted.insert(room.to_owned(), offset);
    }

    async fn publish(&mut self, room: &str) {
        self.published += 1;
        let content = format!("{}:{}", self.client.name.replace(' ', "-"), self.published);
        let room = room.to_owned();
        self.ask(Question::Message { room, content }).await;
    }

    /// Several at once, without waiting for one another.
    async fn burst(&mut self) {
        let room = self.room();
        let count = 2 + self.client.dice.index(6);
        let first = self.published + 1;
        self.published += count;
        let questions: Vec<Question> = (first..first + count)
            .map(|number| Question::Message {
                room: room.clone(),
                content: format!("{}:{number}", self.client.name.replace(' ', "-")),
            })
            .collect();
        self.client.connected().await;
        let sent: Vec<_> = questions
            .iter()
            .map(|question| self.client.send(question.clone()))
            .collect();
        let mut before: Option<Offset> = None;
        for (question, answer) in questions.into_iter().zip(sent) {
            let answered = timeout(PATIENCE, answer).await;
            let answer = answered
                .ok()
                .and_then(Result::ok)
                .filter(|answer| answer["status"] == "ok");
            let Some(answer) = answer else {
                // What comes behind one that failed may stand before it.
                self.ask(question).await;
                continue;
            };
            let offset = answer["offset"]
                .as_str()
                .and_then(|offset| offset.parse::<Offset>().ok());
            if before >= offset {
                let broken = Broken {
                    room: room.clone(),
                    what: format!("{question:?} is at {offset:?}, the one sent before it at {before:?}"),
                };
                self.world.broken(&self.client.name, &broken);
            }
            before = offset;
        }
    }

    /// Reads history from `after` on, to its end.
    async fn read_behind(&mut self, room: &str, after: Option<Offset>) {
        let first = self.world.truth.next(room, 0);
        let Some(mut after) = after.or_else(|| first.map(|first| first.offset)) else {
            return;
        };
        loop {
            let known = self.world.truth.behind(room, after.seq);
            let question = Question::Page {
                room: room.to_owned(),
                after,
                limit: PAGE,
            };
            let answer = self.ask(question).await;
            let came = messages(&answer["messages"]);
            let more = answer["hasMore"] == true;
            let mut wanted = self.world.truth.behind(room, after.seq);
            wanted.truncate(came.len());
            let enough = if more { PAGE } else { known.len().min(PAGE) };
            if wanted != came || came.len() < enough {
                let what =
                    format!("the page behind {after} is {came:?}, more {more}, and there was {known:?}");
                let room = room.to_owned();
                self.world.broken(&self.client.name, &Broken { room, what });
            }
            match came.last() {
                Some(last) if more => after = last.offset,
                _ => return,
            }
        }
    }

    /// Asks until it is answered.
    async fn ask(&self, question: Question) -> Value {
        let begun = Instant::now();
        loop {
            let asked = async {
                self.client.connected().await;
                self.client.send(question.clone()).await
            };
            match timeout(PATIENCE, asked).await {
                Ok(Ok(answer)) if answer["status"] == "ok" => return answer,
                Ok(Ok(answer)) if answer["code"] == "UNAVAILABLE" => {}
                Ok(Ok(answer)) => self.complain(&question, format!("is refused: {answer}")),
                Ok(Err(_)) | Err(_) => {}
            }
            if begun.elapsed() > WITHIN {
                self.complain(&question, "is never answered".to_owned());
                return Value::Null;
            }
            sleep(self.client.dice.time(50..500)).await;
        }
    }

    fn complain(&self, question: &Question, what: String) {
        let what = format!("{question:?} {what}");
        let room = question.room().to_owned();
        self.world.broken(&self.client.name, &Broken { room, what });
    }
}
