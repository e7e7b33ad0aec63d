package main

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	// batchEvents ends a batch; the transaction that reaches it is published whole.
	batchEvents = 8192
	// batchesInFlight bounds the batches that Kafka has not acknowledged, with at-least-once delivery.
	batchesInFlight = 4
	// maxBatchBytes bounds a batch of one partition before compression: the default of max.message.bytes.
	maxBatchBytes = 1 << 20
	// metadataMinAge is the shortest time between two requests for metadata.
	metadataMinAge = 20 * time.Millisecond
)

var contentType = kgo.RecordHeader{
	Key: "content-type", Value: []byte("application/cloudevents+json; charset=utf-8"),
}

// publisher produces the events of transactions.
type publisher struct {
	client    *kgo.Client
	set       settings
	published *atomic.Uint64
}

// batch is what was handed to the client, and the position in the WAL after it.
type batch struct {
	end     pglogrepl.LSN
	promise *kgo.FirstErrPromise
}

// newClient returns an idempotent producer, which waits for all in-sync replicas; a transactional one for
// exactly-once delivery. Nothing lingers: a batch has what there was when the last one had been sent.
func newClient(set settings) (*kgo.Client, error) {
	options := []kgo.Opt{
		kgo.SeedBrokers(set.brokers...),
		kgo.DefaultProduceTopic(set.topic),
		kgo.ProducerBatchCompression(set.codec),
		kgo.ProducerBatchMaxBytes(maxBatchBytes),
		kgo.ProducerLinger(0),
		// The first record for the progress topic asks for its metadata, soon after those of the event topic:
		// it would wait for 5 s by default.
		kgo.MetadataMinAge(metadataMinAge),
	}
	if set.progressTopic != "" {
		options = append(options, kgo.TransactionalID(set.slot))
	}
	return kgo.NewClient(options...)
}

func newPublisher(client *kgo.Client, set settings, published *atomic.Uint64) *publisher {
	return &publisher{client: client, set: set, published: published}
}

// publish takes transactions until the context ends or something fails.
func (p *publisher) publish(ctx context.Context, in <-chan transaction) error {
	if p.set.progressTopic != "" {
		for first := range in {
			if err := p.publishTransaction(ctx, gather(first, in)); err != nil {
				return err
			}
		}
	}
	sent := make(chan batch, batchesInFlight)
	failed := make(chan error, 1)
	go func() { failed <- p.await(sent) }()
	for {
		select {
		case first := <-in:
			select {
			case sent <- p.produce(ctx, gather(first, in)):
			case err := <-failed:
				return err
			}
		case err := <-failed:
			return err
		}
	}
}

// await notes the end of each batch, in order, once Kafka has acknowledged all of it.
func (p *publisher) await(sent <-chan batch) error {
	for each := range sent {
		if err := each.promise.Err(); err != nil {
			return err
		}
		p.published.Store(uint64(each.end))
	}
	return nil
}

// publishTransaction commits the events and the position after them together.
func (p *publisher) publishTransaction(ctx context.Context, transactions []transaction) error {
	if err := p.client.BeginTransaction(); err != nil {
		return err
	}
	done := p.produce(ctx, transactions)
	progress := kgo.KeyStringRecord("position", done.end.String())
	progress.Topic = p.set.progressTopic
	p.client.Produce(ctx, progress, done.promise.Promise())
	if err := p.client.Flush(ctx); err != nil {
		return err
	}
	if err := done.promise.Err(); err != nil {
		return err
	}
	if err := p.client.EndTransaction(ctx, kgo.TryCommit); err != nil {
		return err
	}
	p.published.Store(uint64(done.end))
	return nil
}

// produce hands all events to the client, in order; the partition is the one of Java's default partitioner.
func (p *publisher) produce(ctx context.Context, transactions []transaction) batch {
	promise := kgo.AbortingFirstErrPromise(p.client)
	for _, each := range transactions {
		for _, row := range each.events {
			record := kgo.KeySliceRecord(row.key, row.payload)
			record.Headers = []kgo.RecordHeader{contentType}
			if row.traceparent != nil {
				traced := kgo.RecordHeader{Key: "traceparent", Value: row.traceparent}
				record.Headers = append(record.Headers, traced)
			}
			p.client.Produce(ctx, record, promise.Promise())
		}
	}
	return batch{transactions[len(transactions)-1].end, promise}
}

// gather returns the transactions that are there already, until they have enough events for a batch.
func gather(first transaction, in <-chan transaction) []transaction {
	gathered, events := []transaction{first}, len(first.events)
	for events < batchEvents {
		select {
		case next := <-in:
			gathered, events = append(gathered, next), events+len(next.events)
		default:
			return gathered
		}
	}
	return gathered
}
