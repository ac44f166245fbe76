//! Carries out what an operator orders.

use ratatosk_engine::wire::Malformed;
use ratatosk_rpc::{Call, Error};
use ratatosk_store::node::Reply;
use tokio::sync::oneshot;

use super::judge::judge_address;
use crate::frames::refused;
use crate::network::{Home, Shared};
use crate::order::{Order, put_answer};
use crate::proto::{Answer, Command};

pub(super) async fn order(
    shared: &Shared,
    home: &Home,
    call: &Call,
    command: Command,
) -> Result<Answer, Error> {
    let Command { cluster, to, data } = command;
    judge_address(shared, home, cluster, to).inspect_err(|rejection| {
        shared.metrics.refuse(rejection.word());
        tracing::warn!(caller = ?call.caller(), %rejection, "an order is refused");
    })?;
    let order = Order::decode(&data).map_err(|Malformed| {
        shared.metrics.refuse("malformed");
        refused("an order that makes no sense")
    })?;
    tracing::info!(caller = ?call.caller(), ?order, "an order");
    let (told, tells) = oneshot::channel();
    // Whoever ordered may have gone.
    let reply: Reply = Box::new(move |answers| drop(told.send(answers.map(|_| ()))));
    let handle = &home.handle;
    match order {
        Order::Change { group, version, target } => handle.change(group, version, target, reply),
        Order::Merge { group, version } => handle.merge(group, version, reply),
        Order::Read { group, version } => handle.ask_to_read(group, version, reply),
        Order::Recover { group, above } => handle.recover(group, above, reply),
        Order::Transfer { group, to } => {
            handle.transfer(group, to);
            return Ok(put_answer(Some(Ok(()))));
        }
    }
    Ok(put_answer(tells.await.ok()))
}
