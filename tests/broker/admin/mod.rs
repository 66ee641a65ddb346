//! What an operator sees and changes while a worker runs.

mod handle;

use lapwing::Worker;

use crate::support::{Broker, InProcess, VHost};

async fn vhost() -> VHost {
    Broker::shared().await.vhost().await
}

async fn start(worker: Worker) -> InProcess {
    InProcess::start(worker).await
}
