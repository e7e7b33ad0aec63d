"""Everything that the worker does in Kafka, through aiokafka.

* `publisher` publishes a page and the cursor after it; `records` packs rows into record batches,
  `producers` starts, fences and ends producers, and `guard` notices that the event topic was replaced.
* `progress_topic` reads the last progress record. `reading` reads a topic within a time limit.
* `administration` makes and describes topics. `metadata` requests metadata that aiokafka does not read:
  topic ids and the rights of the caller.
* `connections` adds time limits to aiokafka's connections, `tls` loads certificates at each
  connection, and `faults` explains in one line why a broker cannot be reached.

Clients are made with the arguments that `Settings.kafka_client` returns.
"""
