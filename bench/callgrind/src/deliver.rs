//! A batch of one event, from the worker's link to the sockets of 1,000 members.

use anyhow::{Context, Result};
use async_trait::async_trait;
use bus::{EventLog, LogSubject, NewEntry};
use bytes::Bytes;
use delivery::{Arrival, Batch, Delivery, Links, Receiver};
use model::{Namespace, RoomName, RoomToken, partition_of};
use prost::Message;
use proto::v1::{Publish, Sender};
use tokio::sync::mpsc;

use crate::{
    edge::{self, Client, Edge},
    region,
};

pub(crate) const MEMBERS: usize = 1_000;

pub(crate) fn run(rounds: usize) -> Result<()> {
    edge::alone(async {
        let (batches, arriving) = mpsc::channel(1);
        let (delivered, mut done) = mpsc::channel(1);
        let link = Link {
            arriving,
            delivered,
            counting: false,
        };
        let edge = Edge::start(Box::new(OneWorker(Some(link)))).await?;
        let mut members = Vec::with_capacity(MEMBERS);
        for _ in 0..MEMBERS {
            let mut member = Client::connect(edge.address).await?;
            let join = format!(
                "42{},0[\"join-room\",{{\"roomId\":\"{}\"}}]",
                edge::NAMESPACE,
                edge::ROOM
            );
            member.send(&join).await?;
            members.push(member);
        }
        for member in &mut members {
            member.receive("[\"room-joined\"").await?;
        }

        let room = RoomToken::new(&Namespace::new(edge::NAMESPACE)?, &RoomName::new(edge::ROOM)?);
        let partition = partition_of(room, edge.log.partitions());
        let mut after = 0;
        for round in 0..rounds {
            let record = record(round);
            let entry = NewEntry {
                subject: LogSubject::Room(room),
                payload: record.clone(),
                dedup: None,
                trace: None,
            };
            let seq = edge.log.append(partition, entry).await?.seq;
            let batch = Batch {
                partition,
                epoch: 1,
                after,
                through: seq,
                deliveries: vec![Delivery { seq, room, record }],
                traces: Vec::new(),
            };
            after = seq;
            batches.send(batch).await?;
            done.recv().await.context("the gateway has let go of the link")?;
        }
        // Everybody got everything, or what was counted was something else.
        for member in &mut members {
            for round in 0..rounds {
                member.receive(&id(round)).await?;
            }
        }
        Ok(())
    })
}

fn id(round: usize) -> String {
    format!("00000000-0000-7000-8000-{round:012}")
}

fn record(round: usize) -> Bytes {
    let (id, room) = (id(round), edge::ROOM);
    let args = format!(
        r#"{{"id":"{id}","roomId":"{room}","userId":"alice","username":"Alice","content":"Good morning, everybody! Coffee is ready.","type":"text","timestamp":1700000000000}}"#
    );
    let publish = Publish {
        id,
        namespace: edge::NAMESPACE.to_owned(),
        room: room.to_owned(),
        event: "message".to_owned(),
        args: args.into(),
        sender: Some(Sender {
            user_id: "alice".to_owned(),
            socket_id: "AAAAAAAAAAAAAAAAAAAA".to_owned(),
        }),
        time_ms: 1_700_000_000_000,
        stamp_offset: true,
        ..Publish::default()
    };
    publish.encode_to_vec().into()
}

struct OneWorker(Option<Link>);

#[async_trait]
impl Links for OneWorker {
    async fn accept(&mut self) -> Option<Box<dyn Receiver>> {
        let link = self.0.take()?;
        Some(Box::new(link))
    }
}

/// Counts from handing a batch over until the gateway asks for the next one.
struct Link {
    arriving: mpsc::Receiver<Batch>,
    delivered: mpsc::Sender<()>,
    counting: bool,
}

#[async_trait]
impl Receiver for Link {
    async fn recv_many(&mut self, arrivals: &mut Vec<Arrival>) -> bool {
        if std::mem::take(&mut self.counting) {
            region::end();
            // Full or closed: the benchmark has failed already, and says so.
            let _ = self.delivered.try_send(());
        }
        let Some(batch) = self.arriving.recv().await else {
            return false;
        };
        arrivals.push(Arrival::Batch(batch));
        self.counting = true;
        region::begin();
        true
    }

    fn acknowledge(&self, _partition: u16, _seq: u64) {}
}
