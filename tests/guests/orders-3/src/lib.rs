//! A guest of the tests: an order book in the third of three versions. Its index finds orders by
//! owner and price, and the migration makes it anew under its old tag. This guest is not part of
//! the product.

#[path = "../../orders/book.rs"]
mod book;

use lockstep_guest::{Command, Index, Query, Reply, Table};

use book::Book;

lockstep_guest::include_proto!();

lockstep_guest::version!("3");

lockstep_guest::state! {
    /// Orders by their ids.
    pub struct OrderBook {
        orders: Table<String, Order, ByOwner> = 1,
    }
}

lockstep_guest::migrate!(OrderBook {
    "2" => |state, cx| Ok(state.orders.rebuild(cx.cursor(), ROWS_PER_CALL)),
});

/// Rows that one call of the migration visits.
const ROWS_PER_CALL: u32 = 100;

/// Orders by their owner and price.
struct ByOwner;

impl Index for ByOwner {
    type Key = String;
    type Value = Order;
    type By = (String, u64);
    const TAG: u16 = 2;

    fn by(_: &String, order: &Order) -> Vec<(String, u64)> {
        vec![(order.owner.clone(), order.price)]
    }
}

impl Book for OrderBook {
    fn order(&self, id: &str) -> Option<Order> {
        self.orders.get(id)
    }

    fn rows(&self) -> impl Iterator<Item = (String, Order)> {
        self.orders.iter()
    }

    fn store(&mut self, id: &str, order: &Order) {
        self.orders.insert(id, order);
    }

    fn forget(&mut self, id: &str) {
        self.orders.remove(id);
    }
}

impl Orders for OrderBook {
    fn place(&mut self, cx: &Command, request: PlaceRequest) -> Reply<PlaceResponse> {
        book::place(self, cx, request)
    }

    fn cancel(&mut self, _: &Command, request: CancelRequest) -> Reply<CancelResponse> {
        book::cancel(self, &request)
    }

    fn r#match(&mut self, _: &Command, _: MatchRequest) -> Reply<MatchResponse> {
        book::trade(self)
    }

    fn of(&self, cx: &Query, request: OfRequest) -> Reply<OfResponse> {
        let ids = self.orders.by(ByOwner).prefix(&(request.owner.as_str(),)).keys().collect();
        Ok(OfResponse { read_at_index: cx.index(), ids })
    }

    fn check(&self, cx: &Query, _: CheckRequest) -> Reply<CheckResponse> {
        let entries = self.orders.by(ByOwner).iter().keys().count() as u64;
        let is_missed = |(id, order): &(String, Order)| {
            let by = (order.owner.clone(), order.price);
            self.orders.by(ByOwner).find(&by).keys().all(|found| found != *id)
        };
        let (orders, missed) = (self.orders.len() as u64, self.orders.iter().filter(is_missed).count() as u64);
        Ok(CheckResponse { read_at_index: cx.index(), orders, entries, missed })
    }
}

impl Chain for OrderBook {
    fn put(&mut self, cx: &Command, request: WriteRequest) -> Reply<WriteResponse> {
        book::quote(self, cx, request)
    }

    fn get(&self, cx: &Query, request: ReadRequest) -> Reply<ReadResponse> {
        Ok(ReadResponse { read_at_index: cx.index(), record: self.order(&request.key).map(book::written) })
    }
}

lockstep_guest::export!(OrderBook: Orders, Chain);
