//! The service, replicas of its API, gateways that report.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use apikeys::Keys;
use bus::{Signals, signals::memory::MemorySignals, subjects};
use config::Secret;
use lifecycle::Tasks;
use presence::{
    Deps, Metrics, Service, Settings,
    api::{self, router},
};
use prost::Message;
use proto::v1::{self, presence_client::PresenceClient, presence_delta::Kind};
use registry::presence_store::{PresenceStore, memory::MemoryPresence};
use tokio::{net::TcpListener, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use crate::store::Switch;

/// Long enough for any machine.
pub(crate) const LATE: Duration = Duration::from_secs(30);
/// A batch without an answer is sent again.
const AGAIN: Duration = Duration::from_secs(2);

/// One store and bus, and the service that applies batches.
pub(crate) struct Stage {
    pub(crate) store: Arc<Switch>,
    signals: Arc<dyn Signals>,
    tasks: Tasks,
    stop: CancellationToken,
    numbers: HashMap<&'static str, u64>,
}

/// One replica of the API.
pub(crate) struct Replica {
    address: SocketAddr,
    stop: CancellationToken,
}

impl Stage {
    pub(crate) async fn set(grace: Duration) -> Self {
        Self::on(Arc::new(MemoryPresence::new()), grace).await
    }

    pub(crate) async fn on(store: Arc<dyn PresenceStore>, grace: Duration) -> Self {
        let signals: Arc<dyn Signals> = Arc::new(MemorySignals::new());
        let (tasks, stop) = (Tasks::new(), CancellationToken::new());
        let store = Arc::new(Switch::new(store));
        let deps = Deps {
            store: store.clone(),
            signals: Arc::clone(&signals),
            tasks: tasks.clone(),
            metrics: Metrics::register(&prometheus::Registry::new()).unwrap(),
            clock: presence::system_clock(),
        };
        // Nobody sends heartbeats here.
        let lease = Duration::from_secs(3_600);
        let settings = Settings {
            grace,
            lease,
            ..Settings::default()
        };
        let service = Service::build(deps, settings).await.unwrap();
        let stopping = stop.clone();
        tasks.spawn("presence", async move { service.run(stopping).await.unwrap() });
        Self {
            store,
            signals,
            tasks,
            stop,
            numbers: HashMap::new(),
        }
    }

    /// One more replica of the API.
    pub(crate) async fn replica(&self, settings: api::Settings) -> Replica {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = self.stop.child_token();
        let deps = api::Deps {
            store: self.store.clone(),
            signals: Arc::clone(&self.signals),
            tasks: self.tasks.clone(),
            metrics: api::Metrics::register(&prometheus::Registry::new()).unwrap(),
        };
        let routes = router(deps, settings, stop.clone()).await.unwrap();
        let (stopping, connections) = (stop.clone(), self.tasks.clone());
        self.tasks.spawn("presence API", async move {
            let router = routes.into_axum_router();
            lifecycle::serve(listener, router, None, &connections, stopping).await;
        });
        Replica { address, stop }
    }

    pub(crate) async fn report(&mut self, gateway: &'static str, deltas: Vec<Kind>) {
        let number = self.numbers.entry(gateway).or_default();
        *number += 1;
        let deltas = deltas
            .into_iter()
            .map(|kind| v1::PresenceDelta { kind: Some(kind) });
        let batch = v1::PresenceBatch {
            gateway: gateway.to_owned(),
            number: *number,
            snapshot: false,
            deltas: deltas.collect(),
            ..v1::PresenceBatch::default()
        };
        let batch: bytes::Bytes = batch.encode_to_vec().into();
        // Sent again when the answer does not come, as gateways do.
        let answered = async {
            loop {
                let answer = self
                    .signals
                    .request(subjects::PRESENCE_BATCH, batch.clone(), AGAIN);
                if let Ok(reply) = answer.await {
                    return reply;
                }
            }
        };
        let reply = timeout(LATE, answered).await.unwrap();
        let reply = v1::PresenceReply::decode(reply).unwrap();
        assert!(!reply.need_snapshot);
    }

    /// The gateways begin anew, as after the store was lost.
    pub(crate) fn begin_anew(&mut self) {
        self.numbers.clear();
    }

    /// The tasks of the service and of all replicas.
    pub(crate) fn running(&self) -> String {
        self.tasks.running()
    }

    /// Ends everything; nothing may stay behind.
    pub(crate) async fn strike(self) {
        self.stop.cancel();
        assert_eq!(self.tasks.shutdown(LATE).await, 0, "{}", self.tasks.running());
    }
}

impl Replica {
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint::from_shared(format!("http://{}", self.address)).unwrap()
    }

    pub(crate) async fn channel(&self) -> Channel {
        self.endpoint().connect().await.unwrap()
    }

    pub(crate) async fn client(&self) -> PresenceClient<Channel> {
        PresenceClient::new(self.channel().await)
    }
}

pub(crate) fn with_key(key: &str) -> api::Settings {
    api::Settings {
        keys: Keys::new(Some(&Secret::from(key.to_owned())), &[]),
        ..api::Settings::default()
    }
}

/// A socket of the user in `/chat`.
pub(crate) fn connected(socket: &str, user: &str) -> Kind {
    connected_in("/chat", socket, user)
}

pub(crate) fn connected_in(namespace: &str, socket: &str, user: &str) -> Kind {
    Kind::Connected(v1::SocketConnected {
        namespace: namespace.to_owned(),
        socket_id: socket.to_owned(),
        user_id: user.to_owned(),
        username: user.to_uppercase(),
        connected_at_ms: 1_700_000_000_123,
        ip: "192.0.2.7".to_owned(),
        user_agent: "test/1".to_owned(),
    })
}

pub(crate) fn disconnected(socket: &str) -> Kind {
    Kind::Disconnected(v1::SocketDisconnected {
        namespace: "/chat".to_owned(),
        socket_id: socket.to_owned(),
    })
}

pub(crate) fn joined(socket: &str, room: &str) -> Kind {
    Kind::Joined(v1::RoomJoined {
        namespace: "/chat".to_owned(),
        socket_id: socket.to_owned(),
        room: room.to_owned(),
        told: false,
    })
}

pub(crate) fn left(socket: &str, room: &str) -> Kind {
    Kind::Left(v1::RoomLeft {
        namespace: "/chat".to_owned(),
        socket_id: socket.to_owned(),
        room: room.to_owned(),
    })
}
