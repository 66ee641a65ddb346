//! A service that limits its rate, or has too little room.
