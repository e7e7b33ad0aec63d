"""Earlier releases: their programs and schemas, and what a schema consists of."""
