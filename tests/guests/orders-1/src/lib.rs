//! A guest of the tests: an order book in the first of three versions, which has no index. What its
//! commands do is in `book`. This guest is not part of the product.

#[path = "../../orders/book.rs"]
mod book;

use lockstep_guest::{Command, Map, Query, Reply};

use book::Book;

lockstep_guest::include_proto!();

lockstep_guest::version!("1");

lockstep_guest::state! {
    /// Orders by their ids.
    pub struct OrderBook {
        orders: Map<String, Order> = 1,
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
        self.orders.delete(id);
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

    fn check(&self, cx: &Query, _: CheckRequest) -> Reply<CheckResponse> {
        Ok(CheckResponse { read_at_index: cx.index(), orders: self.orders.len() as u64, entries: 0, missed: 0 })
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
