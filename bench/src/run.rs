//! One run: connect, warm up, measure, let everything arrive, judge.

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;
use mio::Events;
use serde::{Deserialize, Serialize};

use crate::{
    checks::{Faults, RoomSeen},
    dialect::Dialect,
    load::{Counters, Load},
    net::{Net, now},
    procs::{self, Process, Sample},
    spec::{Amount, Spec},
};

/// Nothing has come for so long: what is missing will not come.
const PATIENCE: u64 = 10_000_000_000;
/// Where members are spread over processes, nobody knows when everything is there: it is quiet for so long.
const QUIET: u64 = 1_000_000_000;
const WAIT: u64 = 100_000_000;

/// The moments of a run at which all processes meet and the servers are looked at.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Moment {
    Start,
    Connected,
    Settled,
    Begin,
    Middle,
    End,
    Drained,
}

impl Moment {
    pub(crate) fn with_memory(self) -> bool {
        !matches!(self, Self::Begin | Self::End | Self::Connected)
    }
}

/// What the servers had used and held at each moment.
pub(crate) type Samples = Vec<(Moment, Sample)>;

/// What a process has to say after a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Raw {
    pub(crate) clients: u64,
    /// Of these, connected before anything was measured.
    pub(crate) first: u64,
    pub(crate) connect_seconds: f64,
    /// Of the measured part, in seconds.
    pub(crate) wall: f64,
    pub(crate) deliveries: u64,
    pub(crate) acks: u64,
    pub(crate) published: u64,
    pub(crate) joins: u64,
    pub(crate) recovered: u64,
    pub(crate) left: u64,
    /// CPU of the generator in the measured part.
    pub(crate) cpu_seconds: f64,
    pub(crate) faults: Faults,
    pub(crate) rooms: Vec<(String, Vec<RoomSeen>)>,
    /// Nanoseconds and how often, for each latency.
    pub(crate) delivery: Vec<(u64, u64)>,
    pub(crate) answer: Vec<(u64, u64)>,
    pub(crate) connect: Vec<(u64, u64)>,
}

/// How a process meets the others.
pub(crate) enum Meeting<'a> {
    /// There are none; it looks at the servers itself.
    Alone {
        servers: &'a [Process],
        samples: Samples,
    },
    /// It tells its parent on stdout, and goes on when a line comes on stdin.
    Others { said: Arc<AtomicUsize>, heard: usize },
}

/// Moments and results, as a process tells its parent, a line each.
#[derive(Serialize, Deserialize)]
pub(crate) enum Told {
    Reached(Moment),
    Done(Box<Raw>),
}

/// Runs a share that the parent has written on stdin, and tells it on stdout.
#[expect(clippy::print_stdout, reason = "the parent reads it")]
pub(crate) fn run_share() -> Result<()> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    let spec: Spec = serde_json::from_str(&line)?;
    let said = Arc::new(AtomicUsize::new(0));
    let meeting = Meeting::Others {
        said: Arc::clone(&said),
        heard: 0,
    };
    let (raw, _) = run(&spec, meeting, |net| {
        let waker = net.waker()?;
        std::thread::spawn(move || {
            for line in std::io::stdin().lines() {
                if line.is_err() {
                    break;
                }
                said.fetch_add(1, Ordering::AcqRel);
                // Without a waker the wait goes on until its time is over.
                let _ = waker.wake();
            }
            // The parent is gone, and so is the sense of this run.
            std::process::exit(1);
        });
        Ok(())
    })?;
    println!("{}", serde_json::to_string(&Told::Done(Box::new(raw)))?);
    Ok(())
}

/// Runs alone.
pub(crate) fn run_alone(spec: &Spec, servers: &[Process]) -> Result<(Raw, Samples)> {
    let meeting = Meeting::Alone {
        servers,
        samples: Vec::new(),
    };
    run(spec, meeting, |_| Ok(()))
}

struct Run<'a> {
    net: Net,
    load: Load,
    events: Events,
    meeting: Meeting<'a>,
}

fn run<'a>(
    spec: &Spec,
    meeting: Meeting<'a>,
    prepare: impl FnOnce(&Net) -> Result<()>,
) -> Result<(Raw, Samples)> {
    let dialect = Dialect::new(spec.dialect, &spec.namespace, &spec.path, spec.size);
    let mut run = Run {
        net: Net::new(dialect, spec.targets.clone())?,
        load: Load::new(spec)?,
        events: Events::with_capacity(1024),
        meeting,
    };
    prepare(&run.net)?;
    let measured = run.all(spec)?;
    let samples = match run.meeting {
        Meeting::Alone { samples, .. } => samples,
        Meeting::Others { .. } => Samples::new(),
    };
    Ok((measured.with(run.load), samples))
}

/// What only the course of a run knows.
struct Measured {
    first: u64,
    connect_seconds: f64,
    wall: f64,
    before: Counters,
    after: Counters,
    cpu_seconds: f64,
    /// Latencies of the connects before the measured part.
    connects: Vec<(u64, u64)>,
}

impl Measured {
    fn with(self, load: Load) -> Raw {
        let (before, after) = (self.before, self.after);
        let clients = load.clients() as u64;
        let (delivery, answer) = (pairs(&load.delivery), pairs(&load.answer));
        let connect = match pairs(&load.connect) {
            none if none.is_empty() => self.connects,
            some => some,
        };
        let (rooms, faults) = load.close();
        Raw {
            clients,
            first: self.first,
            connect_seconds: self.connect_seconds,
            wall: self.wall,
            deliveries: after.deliveries - before.deliveries,
            acks: after.acks - before.acks,
            published: after.published - before.published,
            joins: after.joins - before.joins,
            recovered: after.recovered - before.recovered,
            left: after.left - before.left,
            cpu_seconds: self.cpu_seconds,
            faults,
            rooms,
            delivery,
            answer,
            connect,
        }
    }
}

impl Run<'_> {
    fn all(&mut self, spec: &Spec) -> Result<Measured> {
        let first = self.load.open_first(spec.targets.len());
        self.until_joined()?;
        self.meet(Moment::Start)?;
        let began = now();
        self.load.open_rest();
        self.until_joined()?;
        let connect_seconds = (now() - began) as f64 / 1e9;
        self.meet(Moment::Connected)?;
        if spec.settle > 0.0 {
            self.turn_for(spec.settle)?;
        }
        self.meet(Moment::Settled)?;

        if spec.warm_up > 0.0 {
            self.load.start(&mut self.net, u64::MAX);
            self.turn_for(spec.warm_up)?;
            if matches!(spec.amount, Amount::Messages(_)) {
                self.load.stop();
                self.drain(spec)?;
            }
        }
        self.meet(Moment::Begin)?;
        let before = self.load.counters;
        let cpu = procs::cpu_seconds(std::process::id())?;
        let begin = now();
        let connects = match spec.storm {
            // What is told of connects is told of those of the storm.
            true => Vec::new(),
            false => pairs(&self.load.connect),
        };
        self.load.measure(begin, u64::MAX);
        let mut end = None;
        match spec.amount {
            Amount::Messages(messages) => {
                let mine = self.load.share_of(messages);
                self.load.start(&mut self.net, mine);
                while !self.load.is_spent() {
                    self.turn(now() + WAIT)?;
                    ensure!(
                        now() < self.load.last_news.max(begin) + PATIENCE,
                        "nothing comes any more: {:?}",
                        self.load.counters
                    );
                }
                self.drain(spec)?;
                end = Some(self.load.last_news);
            }
            Amount::Seconds(seconds) => {
                if spec.warm_up == 0.0 {
                    self.load.start(&mut self.net, u64::MAX);
                }
                if spec.storm {
                    ensure!(self.load.cut(&mut self.net) > 0, "there is nobody to cut");
                    self.until_joined()?;
                } else if spec.watch_memory {
                    self.turn_for(seconds / 2.0)?;
                    self.meet(Moment::Middle)?;
                    self.turn_for(seconds / 2.0)?;
                } else {
                    self.turn_for(seconds)?;
                }
            }
        }
        self.meet(Moment::End)?;
        let end = end.unwrap_or_else(now);
        let after = self.load.counters;
        let cpu_seconds = procs::cpu_seconds(std::process::id())? - cpu;
        if matches!(spec.amount, Amount::Seconds(_)) {
            self.load.measure(begin, end);
            if spec.storm {
                // Who has come back is to get something, too.
                self.turn_for(1.0)?;
            }
            self.load.stop();
            self.drain(spec)?;
        }
        self.meet(Moment::Drained)?;
        Ok(Measured {
            first: first as u64,
            connect_seconds,
            wall: (end - begin) as f64 / 1e9,
            before,
            after,
            cpu_seconds,
            connects,
        })
    }

    fn turn(&mut self, until: u64) -> Result<()> {
        let due = self.load.tick(&mut self.net)?;
        self.net.turn(&mut self.load, &mut self.events, until.min(due))
    }

    fn turn_for(&mut self, seconds: f64) -> Result<()> {
        let until = now() + (seconds * 1e9) as u64;
        while now() < until {
            self.turn(until)?;
        }
        Ok(())
    }

    fn until_joined(&mut self) -> Result<()> {
        let (mut joins, mut since) = (0, now());
        while !self.load.all_joined() {
            self.turn(now() + WAIT)?;
            if self.load.counters.joins > joins {
                (joins, since) = (self.load.counters.joins, now());
            }
            ensure!(
                self.load.faults.errors == 0,
                "a client was refused, or its connection ended, {joins} have joined"
            );
            ensure!(now() < since + PATIENCE, "only {joins} clients have joined");
        }
        Ok(())
    }

    fn drain(&mut self, spec: &Spec) -> Result<()> {
        let began = now();
        // Of rooms in several processes this one does not know when all is there.
        let patience = if spec.share.of > 1 { QUIET } else { PATIENCE };
        while !(spec.share.of == 1 && self.load.is_done()) {
            self.turn(now() + WAIT / 4)?;
            if now() > self.load.last_news.max(began) + patience {
                break;
            }
        }
        Ok(())
    }

    #[expect(clippy::print_stdout, reason = "the parent reads it")]
    fn meet(&mut self, moment: Moment) -> Result<()> {
        match &mut self.meeting {
            Meeting::Alone { servers, samples } => {
                samples.push((moment, Sample::take(servers, moment.with_memory())?));
                Ok(())
            }
            Meeting::Others { said, heard } => {
                *heard += 1;
                let (said, heard) = (Arc::clone(said), *heard);
                println!("{}", serde_json::to_string(&Told::Reached(moment))?);
                std::io::stdout().flush()?;
                while said.load(Ordering::Acquire) < heard {
                    self.turn(now() + WAIT)?;
                }
                Ok(())
            }
        }
    }
}

fn pairs(histogram: &Histogram<u64>) -> Vec<(u64, u64)> {
    histogram
        .iter_recorded()
        .map(|step| (step.value_iterated_to(), step.count_at_value()))
        .collect()
}
