//! Who owns which partition, and what becomes of deliveries when that changes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bus::{Append, Entry, EventLog, LogError, NewEntry, Page, PageQuery, Tail};
use delivery::{Arrival, local::LinkLimits};
use model::RoomToken;
use registry::{checkpoints::Checkpoints, leases::LeaseStore, snapshots::InterestSnapshots};
use tokio::time::{Instant, sleep};

use crate::stage::{Gateway, LEASE, PARTITIONS, RunningWorker, Stage, numbers, partition, room};

/// Goes on publishing into some rooms, all partitions among them, for a while.
async fn publish_for(stage: &Stage, from: usize, count: usize) {
    for n in from..from + count {
        for number in 0..4 {
            stage.publish(room(number), &format!("{number}-{n}")).await;
        }
        sleep(Duration::from_millis(50)).await;
    }
}

async fn member_of_all(stage: &Stage) -> Gateway {
    let mut gateway = stage.gateway("g").await;
    for number in 0..4 {
        gateway.begin(room(number)).await;
    }
    gateway
}

/// All events once, each room's in order.
async fn has_all(gateway: &mut Gateway, count: usize) {
    gateway.events(4 * count).await;
    let events = gateway.rest().await;
    for number in 0..4 {
        let prefix = format!("{number}-");
        let of_room: Vec<_> = events
            .iter()
            .filter_map(|event| event.strip_prefix(&prefix))
            .collect();
        assert_eq!(of_room, numbers(0..count));
    }
}

fn owned(workers: &[&RunningWorker]) -> Vec<u16> {
    workers.iter().map(|worker| worker.owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn workers_share_the_partitions_and_each_has_one_owner() {
    let stage = Stage::new();
    let mut gateway = member_of_all(&stage).await;
    let one = stage.worker("one").await;
    publish_for(&stage, 0, 20).await;
    assert_eq!(owned(&[&one]), [PARTITIONS]);
    let two = stage.worker("two").await;
    publish_for(&stage, 20, 40).await;
    let shares = owned(&[&one, &two]);
    assert_eq!(shares.iter().sum::<u16>(), PARTITIONS);
    assert!(shares.iter().all(|share| *share > 0), "{shares:?}");
    two.stop().await;
    publish_for(&stage, 60, 40).await;
    assert_eq!(owned(&[&one, &two]), [PARTITIONS, 0]);
    has_all(&mut gateway, 100).await;
    assert!(gateway.partitions.iter().any(|(epoch, _)| *epoch > 1));
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_stops_hands_over_within_a_second() {
    let stage = Stage::new();
    let mut gateway = member_of_all(&stage).await;
    let one = stage.worker("one").await;
    let two = stage.worker("two").await;
    publish_for(&stage, 0, 40).await;
    gateway.rest().await;
    let gaps = gateway.gaps;
    let begun = Instant::now();
    one.stop().await;
    while two.owned() < PARTITIONS {
        sleep(Duration::from_millis(1)).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    publish_for(&stage, 40, 10).await;
    has_all(&mut gateway, 50).await;
    assert_eq!(gateway.gaps, gaps);
}

/// The old owner goes on without knowing; what it sends under its old epoch harms nobody.
#[tokio::test(start_paused = true)]
async fn a_worker_cut_off_is_replaced_within_its_lease() {
    let stage = Stage::new();
    let mut gateway = member_of_all(&stage).await;
    let lost = stage.worker("lost").await;
    publish_for(&stage, 0, 20).await;
    let next = stage.worker("next").await;
    sleep(Duration::from_secs(2)).await;
    assert!(next.owned() < PARTITIONS);
    lost.cut_off();
    let begun = Instant::now();
    let publishing = publish_for(&stage, 20, 100);
    let replaced = async {
        while next.owned() < PARTITIONS {
            sleep(Duration::from_millis(10)).await;
        }
        begun.elapsed()
    };
    let ((), after) = tokio::join!(publishing, replaced);
    assert!(after < LEASE + Duration::from_secs(1), "{after:?}");
    has_all(&mut gateway, 120).await;
    lost.come_back();
    publish_for(&stage, 120, 60).await;
    assert_eq!(owned(&[&lost, &next]).iter().sum::<u16>(), PARTITIONS);
    has_all(&mut gateway, 180).await;
}

/// While the registry is away nobody can take over, and nobody gives up.
#[tokio::test(start_paused = true)]
async fn a_registry_that_is_away_stops_nobody() {
    let stage = Stage::new();
    let mut gateway = member_of_all(&stage).await;
    let worker = stage.worker("w").await;
    publish_for(&stage, 0, 10).await;
    worker.cut_off();
    publish_for(&stage, 10, 200).await;
    has_all(&mut gateway, 210).await;
    assert_eq!(worker.owned(), PARTITIONS);
    worker.come_back();
    publish_for(&stage, 210, 60).await;
    has_all(&mut gateway, 270).await;
    assert_eq!(worker.owned(), PARTITIONS);
}

#[tokio::test(start_paused = true)]
async fn the_next_owner_goes_on_from_where_the_last_one_was() {
    let stage = Stage::new();
    let mut gateway = member_of_all(&stage).await;
    let first = stage.worker("first").await;
    publish_for(&stage, 0, 10).await;
    first.stop().await;
    // Nobody reads for a while.
    publish_for(&stage, 10, 10).await;
    let second = stage.worker("second").await;
    publish_for(&stage, 20, 10).await;
    has_all(&mut gateway, 30).await;
    let looked_at =
        second.metric("fanfare_deliveries_total") + second.metric("fanfare_deliveries_refused_total");
    assert_eq!(
        looked_at, 80.0,
        "what the first one delivered is not delivered again"
    );
}

/// Checkpoints go on alone while the interest stays as it was saved.
#[tokio::test(start_paused = true)]
async fn a_checkpoint_saved_after_the_table_counts() {
    let stage = Stage::new();
    let mut gateway = member_of_all(&stage).await;
    let lost = stage.worker("lost").await;
    publish_for(&stage, 0, 20).await;
    sleep(Duration::from_secs(1)).await;
    lost.cut_off();
    sleep(LEASE).await;
    let next = stage.worker("next").await;
    sleep(Duration::from_secs(2)).await;
    assert_eq!(next.owned(), PARTITIONS);
    let looked_at = next.metric("fanfare_deliveries_total") + next.metric("fanfare_deliveries_refused_total");
    assert_eq!(looked_at, 0.0);
    has_all(&mut gateway, 20).await;
}

#[tokio::test(start_paused = true)]
async fn a_partition_whose_task_panics_is_taken_anew() {
    let stage = Stage::new();
    let mut gateway = member_of_all(&stage).await;
    let log = Arc::new(PanicsOnce {
        inner: Arc::clone(&stage.log),
        armed: AtomicBool::new(true),
    });
    let worker = stage.worker_reading("w", log.clone()).await;
    publish_for(&stage, 0, 60).await;
    assert!(!log.armed.load(Ordering::Relaxed));
    has_all(&mut gateway, 60).await;
    assert_eq!(worker.owned(), PARTITIONS);
    assert_eq!(
        worker.metric("fanfare_take_overs_total"),
        f64::from(PARTITIONS) + 1.0
    );
}

/// A log whose first tail panics.
struct PanicsOnce {
    inner: Arc<dyn EventLog>,
    armed: AtomicBool,
}

#[async_trait]
impl EventLog for PanicsOnce {
    fn partitions(&self) -> u16 {
        self.inner.partitions()
    }

    fn append(&self, partition: u16, entry: NewEntry) -> Append {
        self.inner.append(partition, entry)
    }

    async fn last_seq(&self, partition: u16) -> Result<u64, LogError> {
        self.inner.last_seq(partition).await
    }

    async fn tail(&self, partition: u16, after: u64) -> Result<Box<dyn Tail>, LogError> {
        assert!(!self.armed.swap(false, Ordering::Relaxed), "on purpose");
        self.inner.tail(partition, after).await
    }

    async fn page(&self, partition: u16, room: RoomToken, query: PageQuery) -> Result<Page, LogError> {
        self.inner.page(partition, room, query).await
    }

    async fn get(&self, partition: u16, seq: u64) -> Result<Option<Entry>, LogError> {
        self.inner.get(partition, seq).await
    }
}

/// The last thing the old owner did was to have a batch refused; the rooms are silent since.
#[tokio::test(start_paused = true)]
async fn a_new_owner_tells_gateways_what_the_old_one_could_not() {
    let stage = Stage::new();
    let limits = LinkLimits {
        batches: 1,
        ..LinkLimits::default()
    };
    let mut gateway = stage.gateway_with("g", limits).await;
    gateway.begin(room(1)).await;
    let first = stage.worker("first").await;
    sleep(Duration::from_secs(2)).await;
    stage.publish_each(room(1), 0..10).await;
    first.stop().await;
    let arrivals = gateway.arrivals().await;
    assert!(
        matches!(&arrivals[..], [Arrival::Batch(_)]),
        "the rest was refused: {arrivals:?}"
    );
    let begun = Instant::now();
    let _second = stage.worker("second").await;
    assert_eq!(gateway.events(10).await, numbers(0..10));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

/// Leases, positions and tables are gone: gateways state their rooms, and read what came in between.
#[tokio::test(start_paused = true)]
async fn a_registry_that_forgets_everything_is_rebuilt_from_what_gateways_state() {
    let mut stage = Stage::new();
    let mut gateway = member_of_all(&stage).await;
    let first = stage.worker("first").await;
    publish_for(&stage, 0, 10).await;
    first.stop().await;
    gateway.events(40).await;
    publish_for(&stage, 10, 10).await;
    stage.registry = Arc::default();
    // Epochs never go back, whatever the store forgets.
    for number in 0..PARTITIONS {
        let name = format!("partition-{number}");
        for owner in ["x", "y"] {
            let lease = stage
                .registry
                .leases
                .acquire(&name, owner, LEASE)
                .await
                .unwrap()
                .unwrap();
            stage.registry.leases.release(&lease).await.unwrap();
        }
    }
    let _second = stage.worker("second").await;
    publish_for(&stage, 20, 10).await;
    has_all(&mut gateway, 30).await;
}

#[tokio::test(start_paused = true)]
async fn position_and_interest_are_saved_while_working() {
    let stage = Stage::new();
    let mut gateway = stage.gateway("g").await;
    gateway.begin(room(1)).await;
    let worker = stage.worker("w").await;
    let number = partition(room(1));
    stage.publish_each(room(1), 0..5).await;
    sleep(Duration::from_secs(1)).await;
    let newest = stage.log.last_seq(number).await.unwrap();
    assert_eq!(
        stage.registry.checkpoints.load(number).await.unwrap(),
        Some(newest)
    );
    let table = stage.registry.snapshots.load(number).await.unwrap().unwrap();
    assert_eq!(table.table.len(), 1 + 1 + 4 + 16);
    // Without a change of interest the checkpoint goes on alone.
    stage.publish_each(room(1), 5..10).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(
        stage.registry.checkpoints.load(number).await.unwrap(),
        Some(newest + 5)
    );
    assert_eq!(stage.registry.snapshots.load(number).await.unwrap(), Some(table));
    assert_eq!(worker.metric("fanfare_partition_lag"), 0.0);
    let mut all = 0;
    for number in 0..PARTITIONS {
        all += stage.log.last_seq(number).await.unwrap();
    }
    assert_eq!(worker.metric("fanfare_partition_position"), all as f64);
    worker.stop().await;
    assert_eq!(
        worker.metric("fanfare_partition_position"),
        0.0,
        "what is not owned has no labels"
    );
}
