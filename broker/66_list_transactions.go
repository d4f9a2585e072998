// ListTransactions (key 66), versions 0 to 2: the transactional ids that this broker coordinates, by state and producer id, from v1 on by how
// long their transaction has been open, from v2 on by a regular expression (RE2, of the whole id).

package broker

import (
	"regexp"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
)

func (s *server) listTransactions(r *request) {
	req := r.msg.(*kmsg.ListTransactionsRequest)
	resp := kmsg.NewPtrListTransactionsResponse()
	for _, state := range req.StateFilters {
		if !coordinator.KnownTxnState(state) {
			resp.UnknownStateFilters = append(resp.UnknownStateFilters, state)
		}
	}
	var pattern *regexp.Regexp
	if req.Version >= 2 && textOf(req.TransactionalIDPattern) != "" {
		var err error
		if pattern, err = regexp.Compile("^(?:" + *req.TransactionalIDPattern + ")$"); err != nil {
			resp.ErrorCode = kerr.InvalidRegularExpression.Code
			r.respond(resp)
			return
		}
	}
	now := time.Now().UnixMilli()
	list, err := s.b.Txns().List(func(t coordinator.TxnInfo) bool {
		switch {
		case len(req.StateFilters) > 0 && !slices.Contains(req.StateFilters, t.State.String()),
			len(req.ProducerIDFilters) > 0 && !slices.Contains(req.ProducerIDFilters, t.ProducerID),
			pattern != nil && !pattern.MatchString(t.TransactionalID):
			return false
		case req.Version >= 1 && req.DurationFilterMillis >= 0:
			return t.Start >= 0 && now-t.Start > req.DurationFilterMillis
		}
		return true
	})
	resp.ErrorCode = codeOf(err)
	for _, t := range list {
		st := kmsg.NewListTransactionsResponseTransactionState()
		st.TransactionalID, st.ProducerID, st.TransactionState = t.TransactionalID, t.ProducerID, t.State.String()
		resp.TransactionStates = append(resp.TransactionStates, st)
	}
	r.respond(resp)
}
