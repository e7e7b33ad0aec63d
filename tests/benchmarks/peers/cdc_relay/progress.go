package main

import (
	"context"
	"fmt"

	"github.com/jackc/pglogrepl"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const latest = -1

// startPosition returns the last position that was committed with its events; 0: none yet, or at-least-once
// delivery, for which the slot has the position.
func startPosition(
	ctx context.Context, client *kgo.Client, set settings,
) (pglogrepl.LSN, error) {
	if set.progressTopic == "" {
		return 0, nil
	}
	// This fences an earlier process, and ends its transaction, before the topic is read.
	if _, _, err := client.ProducerID(ctx); err != nil {
		return 0, err
	}
	end, err := endOffset(ctx, client, set.progressTopic)
	if err != nil || end == 0 {
		return 0, err
	}
	reader, err := kgo.NewClient(
		kgo.SeedBrokers(set.brokers...),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{
			set.progressTopic: {0: kgo.NewOffset().AtStart()},
		}),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(), // a marker is the last record
	)
	if err != nil {
		return 0, err
	}
	defer reader.Close()
	var position pglogrepl.LSN
	for next := int64(0); next < end; {
		fetches := reader.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return 0, err
		}
		for _, record := range fetches.Records() {
			next = record.Offset + 1
			if record.Attrs.IsControl() {
				continue
			}
			if position, err = pglogrepl.ParseLSN(string(record.Value)); err != nil {
				return 0, err
			}
		}
	}
	return position, nil
}

func endOffset(ctx context.Context, client *kgo.Client, topic string) (int64, error) {
	request := kmsg.NewPtrListOffsetsRequest()
	partition := kmsg.NewListOffsetsRequestTopicPartition()
	partition.Timestamp = latest
	of := kmsg.NewListOffsetsRequestTopic()
	of.Topic, of.Partitions = topic, append(of.Partitions, partition)
	request.Topics = append(request.Topics, of)
	response, err := request.RequestWith(ctx, client)
	if err != nil {
		return 0, err
	}
	if len(response.Topics) != 1 || len(response.Topics[0].Partitions) != 1 {
		return 0, fmt.Errorf("Kafka did not answer for the topic %s", topic)
	}
	answer := response.Topics[0].Partitions[0]
	return answer.Offset, kerr.ErrorForCode(answer.ErrorCode)
}
