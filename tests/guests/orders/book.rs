//! What the commands of the order book do, in every version: `orders-1`, `orders-2` and `orders-3`
//! include this file. A version gives its rows as a `Book`. This file knows no index.

use lockstep_guest::{Command, Reply, Status};

use crate::{
    CancelRequest, CancelResponse, MatchResponse, Order, PlaceRequest, PlaceResponse, WriteRequest, WriteResponse,
    Written,
};

/// Prices of the quotes that the long runs write.
const QUOTE_PRICES: u64 = 16;

/// The rows of one version.
pub(crate) trait Book {
    /// Returns an order.
    fn order(&self, id: &str) -> Option<Order>;
    /// Returns all orders.
    fn rows(&self) -> impl Iterator<Item = (String, Order)>;
    /// Writes an order.
    fn store(&mut self, id: &str, order: &Order);
    /// Removes an order.
    fn forget(&mut self, id: &str);
}

/// Places an order under a new id.
pub(crate) fn place(book: &mut impl Book, cx: &Command, request: PlaceRequest) -> Reply<PlaceResponse> {
    let PlaceRequest { id, owner, is_bid, price, quantity } = request;
    if id.is_empty() || owner.is_empty() || quantity == 0 {
        return Err(Status::invalid_argument("an order needs id, owner and quantity"));
    }
    if book.order(&id).is_some() {
        return Err(Status::already_exists(format!("there is an order {id}")));
    }
    let order = Order { owner, is_bid, price, quantity, index: cx.index(), position: cx.position(), version: 1 };
    book.store(&id, &order);
    Ok(PlaceResponse {})
}

/// Removes an order.
pub(crate) fn cancel(book: &mut impl Book, request: &CancelRequest) -> Reply<CancelResponse> {
    let quantity = book.order(&request.id).map_or(0, |order| order.quantity);
    book.forget(&request.id);
    Ok(CancelResponse { quantity })
}

/// Trades the dearest bid with the cheapest offer, if they meet.
pub(crate) fn trade(book: &mut impl Book) -> Reply<MatchResponse> {
    let mut bid: Option<(String, Order)> = None;
    let mut offer: Option<(String, Order)> = None;
    for (id, order) in book.rows().filter(|(_, order)| order.quantity > 0) {
        let best = if order.is_bid { &mut bid } else { &mut offer };
        let is_better = |best: &Order| if order.is_bid { order.price > best.price } else { order.price < best.price };
        if best.as_ref().is_none_or(|(_, best)| is_better(best)) {
            *best = Some((id, order));
        }
    }
    match (bid, offer) {
        (Some(bid), Some(offer)) if bid.1.price >= offer.1.price => {
            let quantity = bid.1.quantity.min(offer.1.quantity);
            let response = MatchResponse { quantity, bid: bid.0.clone(), offer: offer.0.clone() };
            for (id, order) in [bid, offer] {
                reduce(book, &id, order, quantity);
            }
            Ok(response)
        }
        _ => Ok(MatchResponse::default()),
    }
}

fn reduce(book: &mut impl Book, id: &str, order: Order, by: u64) {
    match order.quantity - by {
        0 => book.forget(id),
        quantity => book.store(id, &Order { quantity, ..order }),
    }
}

/// Writes a quote, whose owner is the value.
pub(crate) fn quote(book: &mut impl Book, cx: &Command, request: WriteRequest) -> Reply<WriteResponse> {
    let previous = book.order(&request.key).map(written);
    let order = Order {
        price: request.value.bytes().map(u64::from).sum::<u64>() % QUOTE_PRICES,
        owner: request.value,
        is_bid: false,
        quantity: 0,
        index: cx.index(),
        position: cx.position(),
        version: previous.as_ref().map_or(0, |previous| previous.version) + 1,
    };
    book.store(&request.key, &order);
    Ok(WriteResponse { written: Some(written(order)), previous })
}

/// Returns a quote as the clients of the long runs know it.
pub(crate) fn written(order: Order) -> Written {
    Written { value: order.owner, index: order.index, position: order.position, version: order.version }
}

#[cfg(test)]
mod tests {
    use lockstep_guest::Harness;

    use super::*;
    use crate::{CheckRequest, CheckResponse, MatchRequest, OrderBook};

    fn placed(machine: &mut Harness<OrderBook>, id: &str, is_bid: bool, price: u64, quantity: u64) {
        let request = PlaceRequest { id: id.into(), owner: "ann".into(), is_bid, price, quantity };
        let placed: Reply<PlaceResponse> = machine.command("orders.Orders/Place", &request);
        assert_eq!(placed, Ok(PlaceResponse {}));
    }

    fn traded(machine: &mut Harness<OrderBook>) -> MatchResponse {
        machine.command("orders.Orders/Match", &MatchRequest {}).expect("a match refuses nothing")
    }

    #[test]
    fn the_dearest_bid_meets_the_cheapest_offer_until_they_do_not_meet() {
        let mut machine = Harness::<OrderBook>::new();
        placed(&mut machine, "a", true, 5, 10);
        placed(&mut machine, "b", true, 7, 1);
        placed(&mut machine, "c", false, 4, 3);
        let first = traded(&mut machine);
        assert_eq!((first.quantity, first.bid.as_str(), first.offer.as_str()), (1, "b", "c"));
        assert_eq!(traded(&mut machine).quantity, 2, "what is left of c");
        assert_eq!(traded(&mut machine), MatchResponse::default());
        let cancel = CancelRequest { id: "a".into() };
        let cancelled: Reply<CancelResponse> = machine.command("orders.Orders/Cancel", &cancel);
        assert_eq!(cancelled, Ok(CancelResponse { quantity: 8 }));
        let checked: Reply<CheckResponse> = machine.query("orders.Orders/Check", &CheckRequest::default());
        assert!(checked.is_ok_and(|checked| (checked.orders, checked.missed) == (0, 0)));
        machine.assert_replicas_agree();
    }

    #[test]
    fn a_quote_keeps_its_place_and_is_not_traded() {
        let mut machine = Harness::<OrderBook>::new();
        for version in 1..=2 {
            let request = WriteRequest { key: "q".into(), value: "7".into() };
            let response: WriteResponse = machine.command("chain.Chain/Put", &request).expect("it is valid");
            assert_eq!(response.written.map(|written| written.version), Some(version));
        }
        placed(&mut machine, "a", true, 100, 1);
        assert_eq!(traded(&mut machine), MatchResponse::default());
        let checked: Reply<CheckResponse> = machine.query("orders.Orders/Check", &CheckRequest::default());
        assert!(checked.is_ok_and(|checked| (checked.orders, checked.missed) == (2, 0)));
    }
}
