//! A client's `message`: from the bytes in the gateway's socket to the acknowledgement in the client's, through the
//! log in memory. Nobody delivers it.

use anyhow::Result;
use async_trait::async_trait;
use delivery::{Links, Receiver};

use crate::{
    edge::{self, Client, Edge},
    region,
};

pub(crate) fn run(rounds: usize) -> Result<()> {
    edge::alone(async {
        let edge = Edge::start(Box::new(NoWorkers)).await?;
        let mut client = Client::connect(edge.address).await?;
        for round in 0..rounds {
            client.send(&edge::message(round)).await?;
            region::begin();
            client.ready().await?;
            region::end();
            client
                .receive(&format!("43{},{round}[{{\"status\":\"ok\"", edge::NAMESPACE))
                .await?;
        }
        Ok(())
    })
}

struct NoWorkers;

#[async_trait]
impl Links for NoWorkers {
    async fn accept(&mut self) -> Option<Box<dyn Receiver>> {
        None
    }
}
