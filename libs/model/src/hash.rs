//! The hash functions that choose inside the cluster. They are part of the stored format: changing
//! one moves every room to another partition, so the test vectors below must never change.

use crate::RoomToken;

/// The partition of a room's log: the first eight bytes of its token, big-endian, modulo the
/// number of partitions.
///
/// `partitions` is at least 1; 0 is taken as 1.
#[must_use]
pub fn partition_of(token: RoomToken, partitions: u16) -> u16 {
    let mut head = [0u8; 8];
    head.copy_from_slice(&token.as_bytes()[..8]);
    let partition = u64::from_be_bytes(head) % u64::from(partitions.max(1));
    u16::try_from(partition).unwrap_or_default()
}

/// Rendezvous hashing (highest random weight, Thaler and Ravishankar 1998): the node of `nodes`
/// with the highest weight for `key`, where the weight is the first eight bytes, big-endian, of
/// `BLAKE3(len(key) as u64 big-endian ‖ key ‖ node)`; equal weights go to the smaller node name.
///
/// A node that leaves moves only its own keys; a node that comes takes only its share. The order of
/// `nodes` does not matter. `None` when there are no nodes.
pub fn rendezvous<'a>(key: &str, nodes: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut prefix = blake3::Hasher::new();
    prefix.update(&(key.len() as u64).to_be_bytes());
    prefix.update(key.as_bytes());
    nodes
        .into_iter()
        .map(|node| {
            let digest = prefix.clone().update(node.as_bytes()).finalize();
            let mut head = [0u8; 8];
            head.copy_from_slice(&digest.as_bytes()[..8]);
            (u64::from_be_bytes(head), std::cmp::Reverse(node))
        })
        .max()
        .map(|(_, std::cmp::Reverse(node))| node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Namespace, RoomName};

    fn token(namespace: &str, room: &str) -> RoomToken {
        RoomToken::new(&Namespace::new(namespace).unwrap(), &RoomName::new(room).unwrap())
    }

    #[test]
    fn test_vectors_of_room_tokens_and_partitions() {
        let vectors: Vec<(String, u16)> = [("/chat", "lobby"), ("/", "lobby"), ("/chat", "user:ada")]
            .map(|(namespace, room)| {
                let token = token(namespace, room);
                (token.to_string(), partition_of(token, 16))
            })
            .to_vec();
        assert_eq!(
            vectors,
            VECTORS.map(|(token, partition)| (token.to_owned(), partition))
        );
    }

    const VECTORS: [(&str, u16); 3] = [
        ("6f5154d57e2a86c346b8b2c20738004d", 3),
        ("26fc219040e8ed13eed2c5d485f59436", 3),
        ("5541bcd9c1782c6070a1ead91886e7fb", 0),
    ];

    #[test]
    fn rendezvous_moves_only_the_share_of_a_node_that_left() {
        let nodes = ["a", "b", "c", "d"];
        let mut moved = 0;
        for key in 0..10_000 {
            let key = key.to_string();
            let before = rendezvous(&key, nodes).unwrap();
            let after = rendezvous(&key, nodes.into_iter().filter(|node| *node != "c")).unwrap();
            if before == "c" {
                moved += 1;
            } else {
                assert_eq!(before, after);
            }
        }
        assert!(
            (2_200..2_800).contains(&moved),
            "{moved} of 10000 keys were on one of four nodes"
        );
        assert_eq!(rendezvous("x", []), None);
    }

    #[test]
    fn test_vectors_of_rendezvous() {
        let chosen: Vec<_> = ["0", "1", "lobby", "user:ada"]
            .map(|key| rendezvous(key, ["w-1", "w-2", "w-3"]).unwrap())
            .to_vec();
        assert_eq!(chosen, ["w-2", "w-1", "w-2", "w-2"]);
    }
}
