//! Tests of the budget: what is refused, what waits, and that leases always add up.

use futures::FutureExt;
use proptest::prelude::*;

use super::*;

const PATIENCE: Duration = Duration::from_millis(50);

fn held(budget: &Budget) -> (u64, u64) {
    let figures = budget.figures();
    (figures.by_calls, figures.by_watches)
}

#[test]
fn a_connection_holds_a_quarter_and_watches_a_half() {
    let budget = Budget::new(64 << 20);
    let (one, mut leases) = (budget.share(), Vec::new());
    leases.push(one.lease(Use::Call, 16 << 20).unwrap());
    assert_eq!(one.lease(Use::Call, 1).unwrap_err(), Short::Connection(16 << 20));
    leases.push(budget.share().lease(Use::Watch, 16 << 20).unwrap());
    leases.push(budget.share().lease(Use::Watch, 16 << 20).unwrap());
    let another = budget.share();
    assert_eq!(another.lease(Use::Watch, 1).unwrap_err(), Short::Watches(32 << 20));
    leases.push(another.lease(Use::Call, 16 << 20).unwrap());
    assert_eq!(budget.share().lease(Use::Call, 1).unwrap_err(), Short::Node(64 << 20));
    assert_eq!((held(&budget), budget.figures().refused), ((32 << 20, 32 << 20), 3));
    assert!(one.is_nearly_used_up() && budget.share().is_nearly_used_up());
    leases.clear();
    assert_eq!(held(&budget), (0, 0));
    assert!(!one.is_nearly_used_up());
}

#[test]
fn all_connections_of_an_address_hold_a_half_and_its_watches_less() {
    let budget = Budget::new(64 << 20);
    let at = |text: &str| budget.share_of(text.parse().unwrap());
    let connections = [at("10.0.0.1"), at("10.0.0.1"), at("10.0.0.1")];
    let mut leases = vec![connections[0].lease(Use::Watch, 16 << 20).unwrap()];
    leases.push(connections[1].lease(Use::Watch, 8 << 20).unwrap());
    assert_eq!(connections[2].lease(Use::Watch, 1).unwrap_err(), Short::Address(24 << 20));
    assert!(connections[2].is_nearly_used_up(), "so those that wait in vain are ended");
    assert!(connections[2].check_nearly().is_ok(), "its calls have room");
    leases.push(connections[2].lease(Use::Call, 8 << 20).unwrap());
    assert_eq!(connections[2].lease(Use::Call, 1).unwrap_err(), Short::Address(32 << 20));
    assert_eq!(connections[2].check_nearly().unwrap_err(), Short::Address(32 << 20));
    leases.push(at("10.0.0.2").lease(Use::Call, 16 << 20).unwrap());
    let reply = leases.remove(0).tied_to(Bytes::from_static(b"a reply"));
    leases.clear();
    drop(connections);
    assert_eq!(budget.0.addresses.len(), 1, "it has bytes yet");
    assert!(at("10.0.0.1").lease(Use::Watch, 8 << 20).is_ok());
    assert!(at("10.0.0.1").lease(Use::Watch, 9 << 20).is_err());
    drop(reply);
    assert_eq!((budget.0.addresses.len(), held(&budget)), (0, (0, 0)));
}

#[test]
fn a_refusal_says_the_limit_and_the_flag_and_that_nothing_was_applied() {
    for short in [Short::Node(256 << 20), Short::Address(128 << 20), Short::Connection(64 << 20)] {
        let words = short.to_string();
        assert!(words.contains(" MiB ") && words.contains("--client_memory"), "{words}");
        assert!(words.contains("nothing was applied"), "{words}");
    }
    assert!(Short::Watches(100).to_string().contains("100 bytes"));
}

#[test]
fn a_reply_is_counted_by_force_and_the_next_call_refused() {
    let budget = Budget::new(64 << 20);
    let share = budget.share();
    let reply = share.force(Use::Call, 80 << 20).tied_to(Bytes::from_static(b"a reply"));
    assert_eq!(budget.share().lease(Use::Call, 1).unwrap_err(), Short::Node(64 << 20));
    let copy = reply.slice(2..);
    drop(reply);
    assert_eq!((held(&budget).0, &copy[..]), (80 << 20, &b"reply"[..]), "a copy is there yet");
    drop(copy);
    assert_eq!(held(&budget), (0, 0));
}

#[tokio::test]
async fn who_waits_goes_on_when_there_is_room() {
    let budget = Budget::new(64 << 20);
    let (one, another) = (budget.share(), budget.share());
    let full = [one.lease(Use::Watch, 16 << 20).unwrap(), another.lease(Use::Watch, 16 << 20).unwrap()];
    let third = budget.share();
    let mut waiting = Box::pin(third.when_room(Use::Watch, 1 << 20, Duration::from_secs(600)));
    assert!(waiting.as_mut().now_or_never().is_none());
    assert!(budget.short().now_or_never().is_some(), "somebody is told");
    drop(full);
    assert_eq!(waiting.await.unwrap().bytes(), 1 << 20);
    assert_eq!(held(&budget), (0, 0));
}

#[tokio::test]
async fn who_waits_in_vain_is_told() {
    let budget = Budget::new(64 << 20);
    let share = budget.share();
    let _full = share.lease(Use::Watch, 16 << 20).unwrap();
    assert!(share.when_room(Use::Watch, 1, PATIENCE).await.is_none());
    assert!(share.when_room(Use::Watch, 0, PATIENCE).await.is_some());
}

#[derive(Clone, Debug)]
enum Action {
    Lease(usize, bool, u64),
    Force(usize, bool, u64),
    Grow(usize, u64),
    Set(usize, u64),
    Split(usize, u64),
    Drop(usize),
}

fn action() -> impl Strategy<Value = Action> {
    let bytes = 0u64..40;
    prop_oneof![
        (0usize..3, any::<bool>(), bytes.clone()).prop_map(|(at, watch, bytes)| Action::Lease(at, watch, bytes)),
        (0usize..3, any::<bool>(), bytes.clone()).prop_map(|(at, watch, bytes)| Action::Force(at, watch, bytes)),
        (any::<usize>(), bytes.clone()).prop_map(|(at, bytes)| Action::Grow(at, bytes)),
        (any::<usize>(), bytes.clone()).prop_map(|(at, bytes)| Action::Set(at, bytes)),
        (any::<usize>(), bytes).prop_map(|(at, bytes)| Action::Split(at, bytes)),
        any::<usize>().prop_map(Action::Drop),
    ]
}

fn kind(watch: bool) -> Use {
    if watch { Use::Watch } else { Use::Call }
}

fn run(action: Action, shares: &[Share], leases: &mut Vec<Lease>) {
    let at = |at: usize, leases: &Vec<Lease>| (!leases.is_empty()).then(|| at % leases.len());
    match action {
        Action::Lease(share, watch, bytes) => leases.extend(shares[share].lease(kind(watch), bytes)),
        Action::Force(share, watch, bytes) => leases.push(shares[share].force(kind(watch), bytes)),
        Action::Grow(lease, bytes) => {
            at(lease, leases).map(|at| leases[at].grow(bytes));
        }
        Action::Set(lease, bytes) => {
            at(lease, leases).map(|at| leases[at].set(bytes));
        }
        Action::Split(lease, bytes) => {
            let split = at(lease, leases).map(|at| leases[at].split(bytes));
            leases.extend(split);
        }
        Action::Drop(lease) => drop(at(lease, leases).map(|at| leases.swap_remove(at))),
    }
}

proptest! {
    #[test]
    fn leases_always_add_up(actions in prop::collection::vec(action(), 0..60)) {
        let budget = Budget::new(100);
        let shares = [budget.share(), budget.share(), budget.share()];
        let mut leases = Vec::new();
        for action in actions {
            run(action, &shares, &mut leases);
            let sum = |of: Use| leases.iter().filter(|lease| lease.of == of).map(Lease::bytes).sum::<u64>();
            prop_assert_eq!(held(&budget), (sum(Use::Call), sum(Use::Watch)));
            for share in &shares {
                let own: u64 = leases.iter().filter(|lease| Arc::ptr_eq(&lease.share.0, &share.0)).map(Lease::bytes).sum();
                prop_assert_eq!(share.0.held.load(Relaxed), own);
            }
        }
        drop(leases);
        prop_assert_eq!(held(&budget), (0, 0));
    }
}

#[test]
fn operators_see_the_fullest_connection_and_address() {
    let budget = Budget::new(64 << 20);
    let at = |address: &str| budget.share_of(address.parse().unwrap());
    let (one, other, elsewhere) = (at("10.0.0.1"), at("10.0.0.1"), at("10.0.0.2"));
    let leases = [(&one, 300), (&other, 400), (&elsewhere, 500)].map(|(share, bytes)| share.force(Use::Call, bytes));
    let [connection, address] = budget.limits();
    assert_eq!((connection.used, connection.max), (500, 16 << 20));
    assert_eq!((address.used, address.max), (700, 32 << 20));
    drop((leases, one, other, elsewhere));
    assert_eq!(budget.limits().map(|limit| limit.used), [0, 0]);
}
