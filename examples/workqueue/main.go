// Work queue: jobs that are tried again, later if need be, and put aside with the reason when nothing helps.
//
//	jobs ──workers──▶ done
//	         │ failed twice          failed twice again
//	         └──▶ jobs-retry (1 s) ──▶ workers ──▶ jobs-dead
//
// Two workers share the jobs, four at a time each. A job that fails is tried again at once, and a second later by way of a retry topic, while others go
// on; one that fails even then is a dead letter, and so is at once one that can never succeed. One of the workers is taken away in the middle.
//
//	go run ./examples/workqueue
package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/balsamq/balsa/client"
	"github.com/balsamq/balsa/client/serde"
	"github.com/balsamq/balsa/examples/internal/demo"
)

const (
	jobCount   = 120
	attempts   = 2 // at a time
	retryAfter = time.Second
)

// Job is a mail to be sent.
type Job struct {
	Number int    `json:"number"`
	To     string `json:"to"`
}

var codec = client.Codec[string, Job]{Key: serde.String(), Value: serde.JSON[Job]()}

func main() {
	demo.Main(demo.Example{Name: "workqueue", What: "Jobs with retries, delayed retries and a dead-letter topic.", Brokers: 1, Run: run})
}

// job is the nth one. Of the first 40, one is for a busy server, one for a server that is gone, one for nobody; and so on.
func job(n int) Job {
	to := fmt.Sprintf("user-%d@fine.example", n)
	switch n % 40 {
	case 7:
		to = "ann@busy.example"
	case 17:
		to = "bob@gone.example"
	case 27:
		to = "nobody"
	}
	return Job{Number: n, To: to}
}

func run(ctx context.Context, d *demo.Demo) error {
	if err := d.Create(ctx,
		client.TopicSpec{Name: d.Name("jobs"), Partitions: 6},
		client.TopicSpec{Name: d.Name("jobs-retry"), Partitions: 2},
		client.TopicSpec{Name: d.Name("jobs-dead"), Partitions: 1},
	); err != nil {
		return err
	}
	if err := write(ctx, d); err != nil {
		return err
	}
	q := &queue{d: d, attempts: make(map[int]int), done: make(map[int]string), half: make(chan struct{}), all: make(chan struct{})}
	working, stop := context.WithCancel(ctx)
	defer stop()
	leaving, leave := context.WithCancel(working)
	defer leave()
	g, working := errgroup.WithContext(working)
	g.Go(func() error { return worker(working, d, q, "worker-1") })
	g.Go(func() error { return worker(leaving, d, q, "worker-2") })
	for _, step := range []struct {
		reached chan struct{}
		say     string
		then    func()
	}{
		{q.half, "Half of the jobs are dealt with. worker-2 is taken away, and worker-1 gets what it had.", leave},
		{q.all, "All jobs are dealt with.", stop},
	} {
		select {
		case <-step.reached:
			d.Say("%s", step.say)
			step.then()
		case <-working.Done():
			return errors.Join(g.Wait(), ctx.Err())
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return check(ctx, d, q)
}

func write(ctx context.Context, d *demo.Demo) error {
	p, err := client.NewProducer(ctx, client.ProducerConfig{Config: d.Config, Topic: d.Name("jobs")})
	if err != nil {
		return err
	}
	typed := client.NewTypedProducer(p, codec)
	for n := range jobCount {
		j := job(n)
		if err := typed.SendAsync(ctx, client.Message[string, Job]{Key: j.To, Value: j}, nil); err != nil {
			return err
		}
	}
	d.Say("%d mails are to be sent.", jobCount)
	return p.Close(ctx)
}

// worker works until ctx ends. What it is doing then it finishes, and what it has not begun goes to others.
func worker(ctx context.Context, d *demo.Demo, q *queue, name string) error {
	cfg := d.Config
	cfg.Hooks = append(cfg.Hooks, q)
	c, err := client.NewConsumer(ctx, client.ConsumerConfig{
		Config: cfg, Topics: []string{d.Name("jobs")}, Group: d.Name("mailers"),
		Run: client.RunConfig{
			Concurrency: 4,
			Retry: client.RetryPolicy{
				Attempts: attempts, Backoff: 20 * time.Millisecond,
				Delayed:    []client.DelayedRetry{{Topic: d.Name("jobs-retry"), Delay: retryAfter}},
				DeadLetter: d.Name("jobs-dead"),
			},
		},
	})
	if err != nil {
		return err
	}
	defer c.Close(context.WithoutCancel(ctx))
	return client.NewTypedConsumer(c, codec).RunMessages(ctx, func(_ context.Context, m client.Message[string, Job]) error {
		return q.send(name, m.Value)
	})
}

// queue is what the workers do, and what is known of it.
type queue struct {
	d         *demo.Demo
	half, all chan struct{} // closed when so many jobs are dealt with

	mu       sync.Mutex // guards what follows
	attempts map[int]int
	done     map[int]string // job → worker
	dead     int
}

// send is the work.
func (q *queue) send(worker string, j Job) error {
	time.Sleep(5 * time.Millisecond)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.attempts[j.Number]++
	switch n := q.attempts[j.Number]; {
	case j.To == "nobody":
		return client.Permanent(fmt.Errorf("%q is no address", j.To))
	case j.To == "bob@gone.example":
		return errors.New("gone.example does not answer")
	case j.To == "ann@busy.example" && n <= attempts:
		return errors.New("busy.example: 451 try again later")
	}
	if _, again := q.done[j.Number]; !again {
		q.done[j.Number] = worker
		q.countLocked()
	}
	return nil
}

// OnPutAside implements client.HookPutAside: it is told what becomes of jobs that fail.
func (q *queue) OnPutAside(r *kgo.Record, to string, _ int, err error) {
	q.d.Say("  the mail to %s goes to %s: %v", r.Key, to, err)
	if to == q.d.Name("jobs-dead") {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.dead++
		q.countLocked()
	}
}

func (q *queue) countLocked() {
	switch len(q.done) + q.dead {
	case jobCount / 2:
		close(q.half)
	case jobCount:
		close(q.all)
	}
}

// check looks at what is done and what is dead.
func check(ctx context.Context, d *demo.Demo, q *queue) error {
	c, err := client.NewConsumer(ctx, client.ConsumerConfig{Config: d.Config, Topics: []string{d.Name("jobs-dead")}, StopAtEnd: true})
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	d.Say("In jobs-dead, for somebody to look at:")
	var dead []int
	for m, err := range client.NewTypedConsumer(c, codec).Messages(ctx) {
		if err != nil {
			return err
		}
		why, ok := client.PutAsideOf(m.Record)
		if !ok {
			return fmt.Errorf("job %d is among the dead letters without a reason", m.Value.Number)
		}
		d.Say("  job %d for %s, of %s/%d offset %d, tries: %d, reason: %s", m.Value.Number, m.Value.To, why.Topic, why.Partition, why.Offset, why.Attempts, why.Error)
		want := 2 * attempts
		if m.Value.To == "nobody" {
			want = 1
		}
		if why.Attempts != want {
			return fmt.Errorf("job %d was tried %d times, not %d", m.Value.Number, why.Attempts, want)
		}
		dead = append(dead, m.Value.Number)
	}
	slices.Sort(dead)
	var wantDead []int
	byWorker := make(map[string]int)
	later := 0
	for n := range jobCount {
		switch j := job(n); j.To {
		case "nobody", "bob@gone.example":
			wantDead = append(wantDead, n)
		case "ann@busy.example":
			if later++; q.attempts[n] != attempts+1 {
				return fmt.Errorf("job %d was tried %d times, not %d", n, q.attempts[n], attempts+1)
			}
			fallthrough
		default:
			if q.done[n] == "" {
				return fmt.Errorf("job %d is not done", n)
			}
			byWorker[q.done[n]]++
		}
	}
	if !slices.Equal(dead, wantDead) {
		return fmt.Errorf("the dead letters are jobs %v, not %v", dead, wantDead)
	}
	d.Say("Right: %d mails were sent (%d by worker-1, %d by worker-2; %d of them later), %d are dead letters, none is lost.",
		len(q.done), byWorker["worker-1"], byWorker["worker-2"], later, len(dead))
	return nil
}
