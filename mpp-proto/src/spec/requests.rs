//! What a ticket holder can make the service send, message by message (SPEC.md, "What strangers and ticket holders can
//! make the service do"): from the connection's own path, and with somebody else's address in its place.

use std::collections::BTreeSet;
use std::vec;
use std::vec::Vec;

use core::net::SocketAddr;
use core::time::Duration;

use super::exchange::bytes_of;
use super::stranger::{Opening, Stranger, Wish, World, from, ticket};
use crate::ids::{Epoch, RequestId, Rights, Serial, StoreId, StoreSet};
use crate::wire::{Acknowledge, EndpointRequest, Heartbeat, Post, ProbeRequest, Subscribe, TicketRequest};

/// Longer than any probe here, any repetition, and any validation.
const WHILE: Duration = Duration::from_secs(40);
const SILENCE: Duration = Duration::from_secs(20);

/// A message, and what it may cause.
struct Row {
    name: &'static str,
    message: Vec<u8>,
    /// Zeros behind it, so that the packet is larger.
    padding: usize,
    /// Packets to the connection's path if it comes from there; and at most, if it comes from elsewhere, to the path and
    /// to where it came from.
    own: usize,
    spoofed: (usize, usize),
    /// And, of those to where it came from, bytes per byte that came.
    bytes: usize,
}

/// Answers with one packet. From elsewhere: the answer goes to both, and three challenges, unless they would be more than
/// three times what came.
const fn answered(name: &'static str, message: Vec<u8>) -> Row {
    Row { name, message, padding: 0, own: 1, spoofed: (4, 4), bytes: 3 }
}

/// Says nothing, but an unknown path is challenged.
const fn unanswered(name: &'static str, message: Vec<u8>) -> Row {
    Row { name, message, padding: 0, own: 0, spoofed: (3, 3), bytes: 3 }
}

fn rows(echo: [u8; 16]) -> Vec<Row> {
    let request = RequestId(900);
    let (mark, position) = (Serial::ZERO, Serial::ZERO);
    let interval = Duration::from_secs(25);
    let subscribe = Subscribe {
        request,
        filter: StoreSet::ALL,
        covered: StoreSet::EMPTY,
        position: Serial::ZERO,
        epoch: Epoch::NONE,
    };
    let post = Post {
        request,
        post_id: [7; 16],
        store: StoreId::OUTBOUND,
        ttl: None,
        urgency: 1,
        key: None,
        payload: Some(&[0x55; 300]),
        account: None,
    };
    let mut rows = vec![
        answered("Heartbeat", bytes_of(&Heartbeat { request, interval, mark, position })),
        unanswered("Acknowledge", bytes_of(&Acknowledge { position })),
        answered("Subscribe", bytes_of(&subscribe)),
        // Its answer, and the Notify to the one device of the account, which never acknowledges it.
        Row { own: 6, spoofed: (9, 4), ..answered("Post", bytes_of(&post)) },
        answered("Post to another", bytes_of(&Post { account: Some("bob@example.com"), ..post })),
        // Only where it came from, and no more than came.
        Row {
            own: 1,
            spoofed: (0, 1),
            bytes: 1,
            padding: 40,
            ..answered("EndpointRequest", bytes_of(&EndpointRequest { request }))
        },
        Row {
            own: 0,
            spoofed: (0, 0),
            bytes: 0,
            ..answered("EndpointRequest, small", bytes_of(&EndpointRequest { request }))
        },
        // Only to an address that is proven: `echo` is that of `elsewhere`.
        Row {
            own: 1,
            spoofed: (0, 1),
            bytes: 1,
            ..answered("ProbeRequest", bytes_of(&ProbeRequest { request, silence: SILENCE, echo }))
        },
        Row {
            own: 1,
            spoofed: (1, 0),
            bytes: 0,
            ..answered(
                "ProbeRequest, forged",
                bytes_of(&ProbeRequest { request, silence: SILENCE, echo: [1; 16] }),
            )
        },
        answered("TicketRequest", bytes_of(&TicketRequest { request, token: &[1; 90] })),
        answered("of no known type", vec![200, 128, 1, 5, 255]),
        unanswered("of no known type, no request", vec![200, 255]),
    ];
    // Types that do not come here, or not in a data packet, and what is malformed: one Close to the path.
    for ty in [1, 2, 4, 5, 8, 10, 12, 14, 22, 24] {
        let row = Row { own: 1, spoofed: (2, 1), ..answered("for others", vec![ty, 255]) };
        rows.push(row);
    }
    // Reserved ones are unknown.
    rows.extend((15..=21).map(|ty| answered("reserved", vec![ty, 128, 1, 5, 255])));
    rows
}

fn elsewhere() -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 9], 1234))
}

/// What came of a message: packets to the connection's path, packets and bytes to where it came from, and its own size.
struct Cost {
    path: usize,
    source: usize,
    bytes: usize,
    came: usize,
}

/// Sends the message of a row from an address, to a service that has nothing else to do.
fn cost(row: usize, source: SocketAddr) -> (Row, Cost) {
    let mut world = World::new();
    let mut device = Stranger::connected(&mut world, &Wish::new(1));
    let echo = device.echo(&mut world, source).expect("this service answers probes");
    world.run(Duration::from_secs(10));
    let row = rows(echo).swap_remove(row);
    let came = device.aside(&mut world, source, &row.message[..], row.padding);
    let sent = world.run(WHILE);
    assert!(sent.iter().all(|(_, to, _)| *to == source || *to == device.from), "{}", row.name);
    let to = |address: SocketAddr| {
        sent.iter().filter(move |(_, to, _)| *to == address).map(|(.., packet)| packet.len())
    };
    let cost =
        Cost { path: to(device.from).count(), source: to(source).count(), bytes: to(source).sum(), came };
    (row, cost)
}

// SPEC: R-answers-bounded
#[test]
fn no_request_causes_more_than_its_row_allows() {
    let own = from(4000);
    let mut types = BTreeSet::new();
    let mut answered = 0;
    for i in 0..rows([0; 16]).len() {
        let (row, cost_here) = cost(i, own);
        let (name, ty) = (row.name, row.message[0]);
        assert_eq!(cost_here.path, row.own, "{name} {ty}");
        let (_, spoofed) = cost(i, elsewhere());
        assert!(spoofed.path <= row.spoofed.0, "{name} {ty}: {} packets to the path", spoofed.path);
        assert!(spoofed.source <= row.spoofed.1, "{name} {ty}: {} packets to others", spoofed.source);
        let Cost { bytes, came, .. } = spoofed;
        assert!(bytes <= row.bytes * came, "{name} {ty}: {bytes} bytes to others for {came}");
        answered += cost_here.path;
        types.insert(ty);
    }
    assert!(answered > 10, "they are answered");
    let all: BTreeSet<u8> = (1..=24).chain([200]).collect();
    assert_eq!(types, all, "every type of message is in the table");
    // Step 1: as large as it is, once.
    let mut world = World::new();
    let opening = Opening::new(&ticket(Rights::default()), &Wish::new(1), None);
    for sendings in 0..3 {
        let _ = world.put(elsewhere(), &opening.packet);
        let sent = world.run(WHILE);
        let all = sent.iter().all(|(_, to, p)| *to == elsewhere() && p.len() <= opening.packet.len());
        assert!(all && sent.len() <= 1, "sending {sendings}");
    }
}
