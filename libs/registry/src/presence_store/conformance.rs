//! What every engine of [`PresenceStore`] must do: checks of single rules, and a random history held
//! against a naive model that keeps plain lists and counts by looking at all of them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a check reports by panicking")]

use std::{sync::Arc, time::Duration};

use super::PresenceStore;

mod changes;
mod gateways;
mod lists;
mod naive;
mod stays;
mod words;

pub use naive::{Step, agrees_with_the_naive_truth};

const GRACE: Duration = Duration::from_secs(5);
const LEASE: Duration = Duration::from_secs(8);

/// Runs every check, each on an empty store of its own.
///
/// # Panics
/// When the engine does not conform.
pub async fn all(fresh: impl AsyncFn() -> Arc<dyn PresenceStore>) {
    stays::users_are_counted_not_sockets(&*fresh().await).await;
    stays::a_stay_lasts_through_the_grace(&*fresh().await).await;
    stays::leaving_on_purpose_ends_the_stay_at_once(&*fresh().await).await;
    stays::reserved_rooms_are_neither_announced_nor_counted(&*fresh().await).await;
    stays::deltas_that_say_nothing_new_change_nothing(&*fresh().await).await;
    gateways::only_a_batch_that_follows_is_applied(&*fresh().await).await;
    gateways::a_snapshot_replaces_what_the_gateway_held(&*fresh().await).await;
    gateways::what_was_told_before_is_not_told_again(&*fresh().await).await;
    gateways::turns_to_tell_come_once_in_a_pause(&*fresh().await).await;
    gateways::a_dead_gateway_goes_as_one(&*fresh().await).await;
    lists::pages_hold_everyone_who_stays_once(&*fresh().await).await;
    lists::sockets_and_rooms_of_a_user(&*fresh().await).await;
    lists::rooms_are_listed_with_their_counts(&*fresh().await).await;
    lists::many_users_are_looked_up_at_once(&*fresh().await).await;
    lists::counts_by_namespace_and_gateway(&*fresh().await).await;
    changes::a_user_is_online_from_the_first_socket_until_the_grace_is_over(&*fresh().await).await;
    changes::all_changes_are_in_one_list(&*fresh().await).await;
    changes::old_changes_are_forgotten(&*fresh().await).await;
    for seed in 0..16u32 {
        let steps: Vec<Step> = (0..300u32)
            .map(|n| Step::decode((n ^ (seed << 16)).wrapping_mul(0x9e37_79b9).rotate_left(seed)))
            .collect();
        agrees_with_the_naive_truth(&*fresh().await, &steps).await;
    }
}
