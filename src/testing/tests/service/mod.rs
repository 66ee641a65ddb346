//! A service that is down, limits its rate or has too little room: what becomes of the messages.

mod limits;
mod outages;
mod routes;
mod site;
