//! What the fixtures of destinations over HTTP have in common.

use logship_testkit::conformance::exporter::{Request, World};
use logship_testkit::strict::{Destination, Fault, Strict};

/// Lets requests meet a world, if a destination that answers for none of its records can play it.
pub(crate) fn play<D: Destination>(server: &Strict<D>, world: &World, denied: u16, refused: u16, times: usize) -> bool {
    let fault = match world {
        World::Busy => Fault::status_after(429, "0"),
        World::BrokenBefore => Fault::DropUnread,
        World::AnswerLost => Fault::LoseAnswer,
        World::Denied => Fault::status(denied),
        World::Refused => Fault::status(refused),
        _ => return false,
    };
    server.fail_next(times, fault);
    true
}

/// The requests with records that a destination saw.
pub(crate) fn requests<D: Destination>(server: &Strict<D>) -> Vec<Request> {
    let request = |seen: &logship_testkit::strict::SeenRequest| Request {
        records: seen.items,
        body_bytes: seen.body_bytes,
        wire_bytes: seen.wire_bytes,
    };
    server.deliveries().iter().map(request).collect()
}
