// cdc_relay relays the inserts of a table from a logical replication slot to a Kafka topic.
//
// It is what a team builds from pglogrepl and franz-go, as go-pq-cdc-kafka is built: one goroutine decodes
// pgoutput, another one publishes whole transactions in batches. With DELIVERY=exactly-once a batch is a
// Kafka transaction, which also has the position in the WAL after it. The program ends after any error;
// its next start continues from the last position.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/twmb/franz-go/pkg/kgo"
)

// settings come from environment variables of the same names, in capitals.
type settings struct {
	databaseURL string
	slot        string
	publication string
	brokers     []string
	topic       string
	// progressTopic is empty for at-least-once delivery.
	progressTopic string
	codec         kgo.CompressionCodec
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run relays until the context ends or something fails.
func run(ctx context.Context) error {
	set, err := readSettings()
	if err != nil {
		return err
	}
	client, err := newClient(set)
	if err != nil {
		return err
	}
	defer client.Close()
	start, err := startPosition(ctx, client, set)
	if err != nil {
		return err
	}
	from, err := connect(ctx, set, start)
	if err != nil {
		return err
	}
	defer from.close()
	published := new(atomic.Uint64)
	published.Store(uint64(start))
	transactions := make(chan transaction, maxTransactionsAhead)
	failed := make(chan error, 2)
	go func() { failed <- from.read(transactions, published) }()
	go func() { failed <- newPublisher(client, set, published).publish(ctx, transactions) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func readSettings() (settings, error) {
	set := settings{
		databaseURL:   os.Getenv("DATABASE_URL"),
		slot:          os.Getenv("SLOT"),
		publication:   os.Getenv("PUBLICATION"),
		brokers:       strings.Split(os.Getenv("BROKERS"), ","),
		topic:         os.Getenv("TOPIC"),
		progressTopic: os.Getenv("PROGRESS_TOPIC"),
	}
	switch compression := os.Getenv("COMPRESSION"); compression {
	case "none":
		set.codec = kgo.NoCompression()
	case "zstd":
		set.codec = kgo.ZstdCompression()
	default:
		return set, fmt.Errorf("COMPRESSION is none or zstd, not %q", compression)
	}
	return set, nil
}
