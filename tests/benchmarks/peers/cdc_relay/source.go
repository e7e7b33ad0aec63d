package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

const (
	// maxTransactionsAhead bounds what is decoded and not yet published.
	maxTransactionsAhead = 256
	// statusInterval is how often the server is told what is published, so that it can remove WAL.
	statusInterval = time.Second
)

// event is a row of the outbox.
type event struct {
	key, payload, traceparent []byte
}

// transaction has the events of a committed transaction, in the order of their inserts.
type transaction struct {
	// end is the position in the WAL after the transaction.
	end    pglogrepl.LSN
	events []event
}

// source reads a replication slot.
type source struct {
	conn  *pgconn.PgConn
	start pglogrepl.LSN
	open  []event
	// The places of the columns in a row.
	key, payload, traceparent int
}

// connect starts to stream the slot. Transactions that end at `start` or before are skipped.
func connect(ctx context.Context, set settings, start pglogrepl.LSN) (*source, error) {
	config, err := pgconn.ParseConfig(set.databaseURL)
	if err != nil {
		return nil, err
	}
	config.RuntimeParams["replication"] = "database"
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	// binary: bytea comes as it is, not as hexadecimal text of twice the length.
	options := pglogrepl.StartReplicationOptions{PluginArgs: []string{
		"proto_version '1'", "binary 'true'", fmt.Sprintf("publication_names '%s'", set.publication),
	}}
	if err := pglogrepl.StartReplication(ctx, conn, set.slot, start, options); err != nil {
		return nil, err
	}
	return &source{conn: conn, start: start}, nil
}

func (s *source) close() {
	// The other goroutine may be reading: only the socket can be closed.
	_ = s.conn.Conn().Close()
}

// read sends the slot's transactions to `out`, and tells the server what is published.
//
// The socket has a deadline instead of each call a context: pgconn starts a goroutine for each call with a
// context that can end.
func (s *source) read(out chan<- transaction, published *atomic.Uint64) error {
	var next time.Time
	for {
		if now := time.Now(); now.After(next) {
			next = now.Add(statusInterval)
			if err := s.tell(pglogrepl.LSN(published.Load())); err != nil {
				return err
			}
			if err := s.conn.Conn().SetReadDeadline(next); err != nil {
				return err
			}
		}
		message, err := s.conn.ReceiveMessage(context.Background())
		if pgconn.Timeout(err) {
			continue
		}
		if err != nil {
			return err
		}
		switch message := message.(type) {
		case *pgproto3.CopyData:
			if err := s.take(message.Data, out); err != nil {
				return err
			}
		case *pgproto3.ErrorResponse:
			return pgconn.ErrorResponseToPgError(message)
		}
	}
}

func (s *source) tell(position pglogrepl.LSN) error {
	status := pglogrepl.StandbyStatusUpdate{WALWritePosition: position}
	return pglogrepl.SendStandbyStatusUpdate(context.Background(), s.conn, status)
}

// take handles one message of the stream; keepalives are answered by the next regular status.
func (s *source) take(data []byte, out chan<- transaction) error {
	if data[0] != pglogrepl.XLogDataByteID {
		return nil
	}
	wal, err := pglogrepl.ParseXLogData(data[1:])
	if err != nil {
		return err
	}
	message, err := pglogrepl.Parse(wal.WALData)
	if err != nil {
		return err
	}
	switch message := message.(type) {
	case *pglogrepl.RelationMessage:
		return s.find(message.Columns)
	case *pglogrepl.BeginMessage:
		s.open = nil
	case *pglogrepl.InsertMessage:
		row := message.Tuple.Columns
		s.open = append(s.open, event{row[s.key].Data, row[s.payload].Data, row[s.traceparent].Data})
	case *pglogrepl.CommitMessage:
		if message.TransactionEndLSN > s.start && len(s.open) > 0 {
			out <- transaction{message.TransactionEndLSN, s.open}
		}
	}
	return nil
}

// find looks for the places of the columns.
func (s *source) find(columns []*pglogrepl.RelationMessageColumn) error {
	places := map[string]*int{"key": &s.key, "payload": &s.payload, "traceparent": &s.traceparent}
	for place, column := range columns {
		if found, wanted := places[column.Name]; wanted {
			*found = place
			delete(places, column.Name)
		}
	}
	if len(places) > 0 {
		return errors.New("the publication has not all columns of a message")
	}
	return nil
}
