use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::{Ledger, Message, Process, Published, clients, offset};

/// The room in which stock members are told to publish.
pub const CONTROL: &str = "control";
/// The content of a room's last message.
pub const END: &str = "end";

const WITHIN: Duration = Duration::from_secs(90);

/// Stock clients that are members of rooms, as one program (`tests/compat/cluster`).
pub struct StockMembers {
    process: Process,
    rooms: Vec<String>,
}

/// Which stock client.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Language {
    /// `socket.io-client` in Node.
    Node,
    /// `python-socketio`.
    Python,
}

/// What stock members do.
#[derive(Copy, Clone, Debug)]
pub struct StockPlan<'a> {
    /// How they are called.
    pub name: &'a str,
    /// How many at each URL.
    pub clients: usize,
    /// Names of transports, comma-separated: `websocket`, `polling`, `upgrade`; they are taken in turn.
    pub transports: &'a str,
    /// All are members of all these.
    pub rooms: &'a [String],
    /// How many messages each publishes, to the rooms in turn.
    pub messages: usize,
}

/// A line of the program; one of its fields is there.
#[derive(Deserialize)]
struct Line {
    client: Option<String>,
    #[serde(default)]
    acknowledged: Vec<Note>,
    #[serde(default)]
    received: Vec<Note>,
    trouble: Option<String>,
}

#[derive(Deserialize)]
struct Note {
    room: String,
    id: String,
    offset: String,
    content: String,
}

impl StockMembers {
    /// Starts them and waits until all have joined.
    ///
    /// # Errors
    /// When the client cannot be had, or somebody cannot join.
    pub fn join(language: Language, urls: &[String], plan: StockPlan<'_>) -> Result<Self> {
        let (program, file): (PathBuf, _) = match language {
            Language::Node => {
                clients::install_node_packages()?;
                ("node".into(), "cluster/members.mjs")
            }
            Language::Python => (clients::install_python_packages()?, "cluster/members.py"),
        };
        let mut command = Command::new(program);
        command
            .arg(file)
            .current_dir(clients::compat())
            .env("FANFARE_URLS", urls.join(","))
            .env("FANFARE_CLIENTS", plan.clients.to_string())
            .env("FANFARE_TRANSPORTS", plan.transports)
            .env("FANFARE_ROOMS", plan.rooms.join(","))
            .env("FANFARE_MESSAGES", plan.messages.to_string())
            .env("FANFARE_NAME", plan.name);
        let members = Self {
            process: Process::start(&format!("{language:?} {}", plan.name), &mut command)?,
            rooms: plan.rooms.to_vec(),
        };
        members.says("joined")?;
        Ok(members)
    }

    /// Waits until they have published all; somebody must have published to [`CONTROL`] before.
    ///
    /// # Errors
    /// When they do not within 90 s.
    pub fn published(&self) -> Result<()> {
        self.says("published")
    }

    /// Waits for their end, and enters what they have sent and got into the books; [`END`] must have been published
    /// to all their rooms before.
    ///
    /// # Errors
    /// When they do not end well within 90 s, or somebody has had trouble, as a `connect_error`.
    pub fn finish(mut self, ledger: &mut Ledger) -> Result<()> {
        let status = self.process.wait(WITHIN)?;
        let output = self.process.output();
        ensure!(status.success(), "they ended with {status}:\n{}", short(&output));
        let mut troubles = Vec::new();
        for line in output.lines() {
            let line: Line = serde_json::from_str(line).with_context(|| line.to_owned())?;
            troubles.extend(line.trouble);
            let Some(client) = line.client else { continue };
            for note in line.acknowledged {
                let published = Published {
                    offset: offset(&note.offset)?,
                    id: note.id,
                    unavailable: 0,
                    took: Duration::ZERO,
                };
                ledger.acknowledged(&note.room, &note.content, &published);
            }
            for room in &self.rooms {
                ledger.joined(&client, room);
            }
            ledger.received(
                &client,
                line.received
                    .into_iter()
                    .map(message)
                    .collect::<Result<Vec<_>>>()?,
            );
        }
        ensure!(troubles.is_empty(), "trouble:\n{}", troubles.join("\n"));
        Ok(())
    }

    fn says(&self, what: &str) -> Result<()> {
        let begin = format!("{{\"{what}\"");
        let said = self
            .process
            .line(what, WITHIN, |line| line.starts_with(&begin).then_some(()));
        match said {
            Ok(()) => Ok(()),
            Err(_) => bail!("not {what}; they wrote:\n{}", short(&self.process.output())),
        }
    }
}

fn message(note: Note) -> Result<Message> {
    Ok(Message {
        room: note.room,
        id: note.id,
        offset: offset(&note.offset)?,
        content: note.content,
        at: std::time::Instant::now(),
    })
}

/// Lists of messages are long, errors are not.
fn short(output: &str) -> String {
    let lines = output
        .lines()
        .map(|line| line.chars().take(500).collect::<String>());
    lines.collect::<Vec<_>>().join("\n")
}
