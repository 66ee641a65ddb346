//! docker-compose.yml and its side files.
