use redis::{
    Cmd, ErrorKind, Pipeline, RedisError, RedisResult, ServerErrorKind, Value,
    aio::MultiplexedConnection,
    cluster_async::ClusterConnection,
    cluster_routing::{RoutingInfo, SingleNodeRoutingInfo},
};

use super::script::ScriptCall;

/// A connection to one server, or those to the nodes of a cluster. Clones share it.
#[derive(Clone)]
pub(super) enum Connection {
    Node(MultiplexedConnection),
    Cluster(ClusterConnection),
}

#[derive(Copy, Clone)]
pub(super) enum Request<'a> {
    Command(&'a Cmd),
    Pipeline(&'a Pipeline),
    Script(&'a ScriptCall<'a>),
}

impl Connection {
    pub(super) async fn run(&mut self, request: Request<'_>) -> RedisResult<Value> {
        match request {
            Request::Command(command) => self.command(command).await,
            Request::Pipeline(pipeline) => match self {
                Self::Node(connection) => pipeline.query_async(connection).await,
                Self::Cluster(connection) => pipeline.query_async(connection).await,
            },
            Request::Script(call) => match self.command(&call.by_digest()).await {
                Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                    self.command(&call.by_source()).await
                }
                done => done,
            },
        }
    }

    /// Asks for a sign of life, in a cluster any one node.
    pub(super) async fn ping(&mut self) -> RedisResult<()> {
        let ping = redis::cmd("PING");
        match self {
            Self::Node(connection) => ping.query_async::<Value>(connection).await?,
            Self::Cluster(connection) => {
                let any = RoutingInfo::SingleNode(SingleNodeRoutingInfo::Random);
                connection.route_command(ping, any).await?
            }
        };
        Ok(())
    }

    async fn command(&mut self, command: &Cmd) -> RedisResult<Value> {
        match self {
            Self::Node(connection) => command.query_async(connection).await,
            Self::Cluster(connection) => command.query_async(connection).await,
        }
    }
}

/// Whether another connection may do better: this one is gone, is silent, or leads to a server that is no master any
/// more or wants a login.
pub(super) fn is_broken(error: &RedisError) -> bool {
    let wrong_server = matches!(
        error.kind(),
        ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown)
    );
    wrong_server
        || error.is_io_error()
        || error.is_timeout()
        || error.is_unrecoverable_error()
        || error.code() == Some("NOAUTH")
}

/// For logs and errors. What servers say has no secret in it; what the client says of an address is left out.
pub(super) fn describe(error: &RedisError) -> String {
    match error.kind() {
        ErrorKind::AuthenticationFailed => {
            let detail = error.detail().unwrap_or("wrong user or password");
            format!("it refuses the credentials ({detail})")
        }
        _ if error.is_timeout() => "no answer in time".to_owned(),
        _ => error.to_string(),
    }
}
