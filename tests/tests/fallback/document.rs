//! The OpenAPI document tells the truth.

use anyhow::Result;
use tests::{schemathesis, token};

use crate::{get, with_server};

#[test]
fn schemathesis_finds_nothing_else_than_documented() -> Result<()> {
    let settings = [
        ("FANFARE_AUTH__MODE", "jwt"),
        ("FANFARE_LIMITS__AUTH_FAILURES_PER_IP", "0"),
    ];
    with_server(&settings, |address| {
        let document = format!("http://{address}/api/openapi.json");
        get(address, "/api/openapi.json").send()?.expect(200)?;
        let user = token("ada", &["--room", "*"])?;
        // An offset must belong to its room, which no schema can say.
        schemathesis(&document, &user, &["positive_data_acceptance"]).map(drop)
    })
}
