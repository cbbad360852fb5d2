//! Whole-system tests: the harness they share. It starts real servers on free ports, as processes of their own,
//! keeps what they log, and runs the programs of stock clients against them.

mod client;
mod clients;
mod cluster;
pub mod faults;
mod http;
mod ledger;
mod returner;
mod round_robin;
mod server;
mod stock_members;
mod token;
mod traffic;
mod wire;

pub use client::{Answer, Client, Message, Published, offset};
pub use clients::{
    Counts, Mode, artillery, browser, build_page, compat, install_node_packages, install_python_packages,
    node, python, python_program, scenario, schemathesis,
};
pub use cluster::{Cluster, Instance, Role, Size, until};
pub use http::{HttpAnswer, HttpRequest};
pub use ledger::{Ledger, Verdict};
pub use returner::{Gateways, Returner, Seen};
pub use round_robin::RoundRobin;
pub use server::{JWT_SECRET, ProtocolSuites, Standalone, built};
pub use servers::{self, Process};
pub use stock_members::{CONTROL, END, Language, StockMembers, StockPlan};
pub use token::token;
pub use traffic::{Load, Report, Traffic};
