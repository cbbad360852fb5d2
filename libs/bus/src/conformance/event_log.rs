//! What every engine of [`EventLog`] must do.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::{join_all, try_join_all};
use model::{RoomToken, TraceContext};

use super::{poll_once, soon, unique};
use crate::{Append, Appended, Entry, EventLog, LogError, LogSubject, NewEntry, Page, PageQuery, Tail};

/// An engine, and how it is configured.
#[derive(Clone)]
pub struct LogUnderTest {
    /// The engine, with at least two partitions.
    pub log: Arc<dyn EventLog>,
    /// So many entries a room keeps, between 8 and 1000.
    pub max_messages_per_room: usize,
    /// Bytes of the largest record, at most 8 MiB.
    pub max_record_bytes: usize,
}

/// Runs every check on an engine of its own from `make`, which may be the same one each time.
///
/// # Panics
/// When the engine does not conform.
pub async fn event_log(make: impl AsyncFn() -> LogUnderTest) {
    tokio::join!(
        async { calls_of_one_task_stand_in_their_order(&make().await).await },
        async { calls_keep_their_order_across_subjects(&make().await).await },
        async { partitions_are_independent(&make().await).await },
        async { a_dropped_append_is_stored_all_the_same(&make().await).await },
        async { a_key_is_stored_once(&make().await).await },
        async { a_room_keeps_its_newest(&make().await).await },
        async { pages_before(&make().await).await },
        async { pages_after(&make().await).await },
        async { an_entry_is_read_back_whole(&make().await).await },
        async { control_entries_belong_to_no_room(&make().await).await },
        async { a_tail_begins_behind_its_position(&make().await).await },
        async { a_tail_goes_on_with_what_comes(&make().await).await },
        async { a_tail_loses_nothing_when_it_is_not_awaited_to_the_end(&make().await).await },
        async { tails_do_not_disturb_each_other(&make().await).await },
        async { an_unknown_partition_is_an_error(&make().await).await },
        async { a_record_that_is_too_large_is_refused(&make().await).await },
    );
}

/// A room of one check.
#[derive(Clone)]
struct Room {
    log: Arc<dyn EventLog>,
    partition: u16,
    token: RoomToken,
}

impl Room {
    fn new(test: &LogUnderTest) -> Self {
        let mut token = [0; 16];
        token[..8].copy_from_slice(&unique().to_be_bytes());
        token[8..].copy_from_slice(&unique().to_be_bytes());
        let token = RoomToken::from_bytes(&token).unwrap();
        Self {
            log: Arc::clone(&test.log),
            partition: model::partition_of(token, test.log.partitions()),
            token,
        }
    }

    fn append(&self, payload: &str) -> Append {
        self.append_keyed(payload, None)
    }

    fn append_keyed(&self, payload: &str, dedup: Option<String>) -> Append {
        let payload = Bytes::copy_from_slice(payload.as_bytes());
        self.log.append(
            self.partition,
            NewEntry {
                subject: LogSubject::Room(self.token),
                payload,
                dedup,
                trace: None,
            },
        )
    }

    /// Appends `count` entries named by their number; their sequences.
    async fn fill(&self, count: usize) -> Vec<u64> {
        let appends: Vec<_> = (0..count).map(|n| self.append(&n.to_string())).collect();
        soon(try_join_all(appends))
            .await
            .unwrap()
            .iter()
            .map(|appended| appended.seq)
            .collect()
    }

    async fn page(&self, query: PageQuery) -> Page {
        soon(self.log.page(self.partition, self.token, query))
            .await
            .unwrap()
    }

    async fn newest(&self, limit: usize) -> Page {
        self.page(PageQuery::Before {
            before: u64::MAX,
            limit,
        })
        .await
    }

    async fn tail(&self, after: u64) -> Box<dyn Tail> {
        soon(self.log.tail(self.partition, after)).await.unwrap()
    }

    /// The next `count` entries of this room, others left out.
    async fn take(&self, tail: &mut dyn Tail, count: usize) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut last = 0;
        while entries.len() < count {
            let batch = soon(tail.next()).await.unwrap();
            assert!(!batch.is_empty(), "a batch has at least one entry");
            for entry in batch {
                assert!(entry.seq > last, "{} after {last}", entry.seq);
                last = entry.seq;
                if entry.subject == LogSubject::Room(self.token) {
                    entries.push(entry);
                }
            }
        }
        entries
    }
}

fn texts(entries: &[Entry]) -> Vec<String> {
    entries
        .iter()
        .map(|entry| String::from_utf8(entry.payload.to_vec()).unwrap())
        .collect()
}

fn seqs(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.seq).collect()
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

async fn calls_of_one_task_stand_in_their_order(test: &LogUnderTest) {
    let room = Room::new(test);
    let count = test.max_messages_per_room.min(500);
    let mut appends: Vec<_> = (0..count).map(|n| room.append(&n.to_string())).collect();
    // Whoever waits first does not come first.
    appends.reverse();
    let mut appended: Vec<Appended> = soon(try_join_all(appends)).await.unwrap();
    appended.reverse();
    assert!(appended.is_sorted_by(|one, next| one.seq < next.seq));
    assert!(
        appended
            .iter()
            .all(|appended| appended.seq > 0 && !appended.duplicate)
    );
    let page = room.newest(count).await;
    assert_eq!(texts(&page.entries), numbers(0..count));
    assert_eq!(
        seqs(&page.entries),
        appended.iter().map(|appended| appended.seq).collect::<Vec<_>>()
    );
    let last = soon(room.log.last_seq(room.partition)).await.unwrap();
    assert!(last >= appended[count - 1].seq);
}

/// A join's record stands before the event that was sent after it, whatever room that is of.
async fn calls_keep_their_order_across_subjects(test: &LogUnderTest) {
    let room = Room::new(test);
    let subjects = [
        LogSubject::Control,
        LogSubject::Room(room.token),
        LogSubject::Room(Room::new(test).token),
    ];
    let mark = format!("{:x}", unique());
    let first = soon(room.log.last_seq(room.partition)).await.unwrap();
    let mut appends: Vec<_> = (0..24)
        .map(|n| {
            let entry = NewEntry {
                subject: subjects[n % 3],
                payload: Bytes::from(format!("{mark} {n}")),
                dedup: (n % 2 == 0).then(|| format!("{mark} {n}")),
                trace: None,
            };
            room.log.append(room.partition, entry)
        })
        .collect();
    appends.reverse();
    let mut appended = soon(try_join_all(appends)).await.unwrap();
    appended.reverse();
    let mut tail = room.tail(first).await;
    let mut seen = Vec::new();
    while seen.len() < appended.len() {
        let mut batch = soon(tail.next()).await.unwrap();
        batch.retain(|entry| entry.payload.starts_with(mark.as_bytes()));
        seen.extend(batch);
    }
    for (n, entry) in seen.iter().enumerate() {
        let text = Bytes::from(format!("{mark} {n}"));
        assert_eq!((entry.subject, &entry.payload), (subjects[n % 3], &text));
        assert_eq!(entry.seq, appended[n].seq);
    }
    assert!(seen.is_sorted_by(|one, next| one.seq < next.seq));
}

async fn partitions_are_independent(test: &LogUnderTest) {
    assert!(test.log.partitions() >= 2);
    let one = Room {
        partition: 0,
        ..Room::new(test)
    };
    let other = Room {
        partition: 1,
        ..one.clone()
    };
    soon(one.append("one")).await.unwrap();
    soon(other.append("other")).await.unwrap();
    assert_eq!(texts(&one.newest(10).await.entries), ["one"]);
    assert_eq!(texts(&other.newest(10).await.entries), ["other"]);
    let key = Some(format!("{:x}", unique()));
    assert!(
        !soon(one.append_keyed("keyed", key.clone()))
            .await
            .unwrap()
            .duplicate
    );
    assert!(!soon(other.append_keyed("keyed", key)).await.unwrap().duplicate);
}

async fn a_dropped_append_is_stored_all_the_same(test: &LogUnderTest) {
    let room = Room::new(test);
    let first = soon(room.append("before")).await.unwrap();
    let mut tail = room.tail(first.seq).await;
    drop(room.append("dropped"));
    soon(room.append("after")).await.unwrap();
    assert_eq!(texts(&room.take(&mut *tail, 2).await), ["dropped", "after"]);
}

async fn a_key_is_stored_once(test: &LogUnderTest) {
    let room = Room::new(test);
    let key = Some(format!("{:x}", unique()));
    // Many in flight: exactly one is the first, and all name its place.
    let appends: Vec<_> = (0..20).map(|_| room.append_keyed("once", key.clone())).collect();
    let appended = soon(try_join_all(appends)).await.unwrap();
    assert!(!appended[0].duplicate);
    assert!(
        appended[1..]
            .iter()
            .all(|again| again.duplicate && again.seq == appended[0].seq)
    );
    // Under another subject of the partition it is the same key.
    let other = Room {
        partition: room.partition,
        ..Room::new(test)
    };
    let again = soon(other.append_keyed("again", key)).await.unwrap();
    assert_eq!(
        again,
        Appended {
            seq: appended[0].seq,
            duplicate: true
        }
    );
    assert_eq!(other.newest(10).await, Page::default());
    let next = soon(room.append_keyed("next", Some(format!("{:x}", unique()))))
        .await
        .unwrap();
    assert!(!next.duplicate && next.seq > appended[0].seq);
    assert_eq!(texts(&room.newest(10).await.entries), ["once", "next"]);
}

async fn a_room_keeps_its_newest(test: &LogUnderTest) {
    let room = Room::new(test);
    let quiet = Room {
        partition: room.partition,
        ..Room::new(test)
    };
    let kept = test.max_messages_per_room;
    let first = soon(quiet.append("quiet")).await.unwrap().seq;
    let all = room.fill(kept + 5).await;
    let page = room
        .page(PageQuery::After {
            after: 0,
            limit: kept * 2,
        })
        .await;
    assert_eq!(texts(&page.entries), numbers(5..kept + 5));
    assert!(!page.has_more);
    assert!(
        soon(room.log.get(room.partition, all[5]))
            .await
            .unwrap()
            .is_some()
    );
    // A tail passes over the hole, as far as there is one already.
    let mut tail = room.tail(first - 1).await;
    let mut entries = room.take(&mut *tail, kept).await;
    while entries.last().map(|entry| entry.seq) != all.last().copied() {
        entries.extend(room.take(&mut *tail, 1).await);
    }
    let newest = entries.split_off(entries.len() - kept);
    assert_eq!(texts(&newest), numbers(5..kept + 5));
    assert_eq!(texts(&quiet.newest(10).await.entries), ["quiet"]);
}

async fn pages_before(test: &LogUnderTest) {
    let room = Room::new(test);
    assert_eq!(room.newest(10).await, Page::default());
    let all = room.fill(8).await;
    let before = |before, limit| room.page(PageQuery::Before { before, limit });
    let page = before(u64::MAX, 3).await;
    assert_eq!((seqs(&page.entries), page.has_more), (all[5..].to_vec(), true));
    let page = before(all[5], 3).await;
    assert_eq!((seqs(&page.entries), page.has_more), (all[2..5].to_vec(), true));
    let page = before(all[2], 2).await;
    assert_eq!((seqs(&page.entries), page.has_more), (all[..2].to_vec(), false));
    let page = before(all[2], 200).await;
    assert_eq!((seqs(&page.entries), page.has_more), (all[..2].to_vec(), false));
    assert_eq!(before(all[0], 5).await, Page::default());
    assert_eq!(before(0, 5).await, Page::default());
}

async fn pages_after(test: &LogUnderTest) {
    let room = Room::new(test);
    let all = room.fill(8).await;
    let after = |after, limit| room.page(PageQuery::After { after, limit });
    let page = after(0, 3).await;
    assert_eq!((seqs(&page.entries), page.has_more), (all[..3].to_vec(), true));
    let page = after(all[2], 3).await;
    assert_eq!((seqs(&page.entries), page.has_more), (all[3..6].to_vec(), true));
    let page = after(all[5], 2).await;
    assert_eq!((seqs(&page.entries), page.has_more), (all[6..].to_vec(), false));
    let page = after(all[5], 200).await;
    assert_eq!((seqs(&page.entries), page.has_more), (all[6..].to_vec(), false));
    assert_eq!(after(all[7], 5).await, Page::default());
    assert_eq!(after(u64::MAX, 5).await, Page::default());
}

async fn an_entry_is_read_back_whole(test: &LogUnderTest) {
    let room = Room::new(test);
    let payload = Bytes::from((0..=255).collect::<Vec<u8>>());
    let trace: TraceContext = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        .parse()
        .unwrap();
    let trace = Box::new(trace);
    let entry = NewEntry {
        subject: LogSubject::Room(room.token),
        payload: payload.clone(),
        dedup: None,
        trace: Some(trace.clone()),
    };
    let seq = soon(room.log.append(room.partition, entry)).await.unwrap().seq;
    let entry = soon(room.log.get(room.partition, seq)).await.unwrap().unwrap();
    assert_eq!((entry.seq, entry.subject), (seq, LogSubject::Room(room.token)));
    assert_eq!(entry.payload, payload);
    assert_eq!(entry.trace, Some(trace));
    assert!(entry.time_ms > 0);
    assert_eq!(
        room.take(&mut *room.tail(seq - 1).await, 1).await,
        room.newest(1).await.entries
    );
    assert_eq!(room.newest(1).await.entries, [entry]);
    assert_eq!(soon(room.log.get(room.partition, 0)).await.unwrap(), None);
    assert_eq!(
        soon(room.log.get(room.partition, u64::MAX >> 1)).await.unwrap(),
        None
    );
}

async fn control_entries_belong_to_no_room(test: &LogUnderTest) {
    let room = Room::new(test);
    let mark = Bytes::from(unique().to_string());
    let first = soon(room.append("first")).await.unwrap().seq;
    // More of them than a room may have.
    let appends = (0..test.max_messages_per_room + 5).map(|_| {
        let entry = NewEntry {
            subject: LogSubject::Control,
            payload: mark.clone(),
            dedup: None,
            trace: None,
        };
        room.log.append(room.partition, entry)
    });
    let appended = soon(try_join_all(appends)).await.unwrap();
    let mut tail = room.tail(first).await;
    let mut seen = Vec::new();
    while seen.len() < appended.len() {
        for entry in soon(tail.next()).await.unwrap() {
            if entry.payload == mark {
                assert_eq!(entry.subject, LogSubject::Control);
                seen.push(entry.seq);
            }
        }
    }
    assert_eq!(
        seen,
        appended.iter().map(|appended| appended.seq).collect::<Vec<_>>()
    );
    assert_eq!(texts(&room.newest(100).await.entries), ["first"]);
}

async fn a_tail_begins_behind_its_position(test: &LogUnderTest) {
    let room = Room::new(test);
    let all = room.fill(8).await;
    let mut tail = room.tail(all[2]).await;
    assert_eq!(texts(&room.take(&mut *tail, 5).await), numbers(3..8));
    // A new one may go on from anywhere.
    let mut tail = room.tail(all[5]).await;
    assert_eq!(texts(&room.take(&mut *tail, 2).await), numbers(6..8));
}

async fn a_tail_goes_on_with_what_comes(test: &LogUnderTest) {
    let room = Room::new(test);
    let last = soon(room.log.last_seq(room.partition)).await.unwrap();
    let mut tail = room.tail(last).await;
    for round in 0..20 {
        let text = round.to_string();
        let (entries, appended) = tokio::join!(room.take(&mut *tail, 1), async {
            tokio::task::yield_now().await;
            soon(room.append(&text)).await.unwrap()
        });
        assert_eq!(
            (texts(&entries), seqs(&entries)),
            (vec![text.clone()], vec![appended.seq])
        );
    }
}

async fn a_tail_loses_nothing_when_it_is_not_awaited_to_the_end(test: &LogUnderTest) {
    let room = Room::new(test);
    let first = soon(room.append("first")).await.unwrap().seq;
    let mut tail = room.tail(first).await;
    let mut seen = Vec::new();
    let count = test.max_messages_per_room.min(200);
    for n in 0..count {
        let append = room.append(&n.to_string());
        for _ in 0..3 {
            if let Some(batch) = poll_once(tail.next()).await {
                seen.extend(batch.unwrap());
            }
        }
        soon(append).await.unwrap();
    }
    seen.retain(|entry| entry.subject == LogSubject::Room(room.token));
    let rest = room.take(&mut *tail, count - seen.len()).await;
    seen.extend(rest);
    assert_eq!(texts(&seen), numbers(0..count));
}

async fn tails_do_not_disturb_each_other(test: &LogUnderTest) {
    let room = Room::new(test);
    let count = test.max_messages_per_room.min(100);
    let first = soon(room.append("first")).await.unwrap().seq;
    let mut tails = Vec::new();
    for _ in 0..4 {
        tails.push(room.tail(first).await);
    }
    let reads = join_all(tails.iter_mut().map(|tail| room.take(&mut **tail, count - 1)));
    let (read, _) = tokio::join!(reads, room.fill(count - 1));
    for entries in read {
        assert_eq!(texts(&entries), numbers(0..count - 1));
    }
}

async fn an_unknown_partition_is_an_error(test: &LogUnderTest) {
    let partition = test.log.partitions();
    let room = Room {
        partition,
        ..Room::new(test)
    };
    let unknown = LogError::NoSuchPartition(partition);
    assert_eq!(soon(room.append("x")).await, Err(unknown.clone()));
    assert_eq!(soon(room.log.last_seq(partition)).await, Err(unknown.clone()));
    assert_eq!(
        soon(room.log.tail(partition, 0)).await.err(),
        Some(unknown.clone())
    );
    assert_eq!(soon(room.log.get(partition, 1)).await, Err(unknown.clone()));
    let page = room
        .log
        .page(partition, room.token, PageQuery::After { after: 0, limit: 1 });
    assert_eq!(soon(page).await, Err(unknown));
}

async fn a_record_that_is_too_large_is_refused(test: &LogUnderTest) {
    let room = Room::new(test);
    let limit = test.max_record_bytes;
    let largest = "x".repeat(limit);
    soon(room.append(&largest)).await.unwrap();
    let refused = soon(room.append(&format!("{largest}x"))).await;
    assert_eq!(
        refused,
        Err(LogError::TooLarge {
            size: limit + 1,
            limit
        })
    );
    assert_eq!(room.newest(10).await.entries.len(), 1);
}
