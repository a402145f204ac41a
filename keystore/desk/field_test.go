package desk

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestTeams(t *testing.T) {
	c := newClerk(t)
	a := c.admin()
	c.units(a, "31,,province,Hải Phòng,", "31-1,31,commune,An Dương,")
	_, token, err := c.NewTeam(a, Team{Place: "market", Unit: "31-1", Label: "Chợ Hỗ"})
	if err != nil {
		t.Fatal(err)
	}
	once := NewOnce()
	var wg sync.WaitGroup
	for range 8 { // the same submission, again and again
		wg.Go(func() {
			if _, _, err := c.Count(token, once, Tally{Helped: 2, Refused: 1}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	c.reopen()
	if _, counted, err := c.Count(token, once, Tally{Helped: 2, Refused: 1}); counted || err != nil {
		t.Error("counted again after a restart", err)
	}
	team, err := c.Team(token)
	if err != nil || team.Total != (Tally{Helped: 2, Refused: 1}) || team.Entries != 1 {
		t.Fatal(team, err)
	}
	for name, bad := range map[string]Tally{"nothing": {}, "negative": {Had: -1}, "too much": {Had: MaxTap + 1}} {
		if _, _, err := c.Count(token, NewOnce(), bad); !errors.Is(err, ErrTally) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := c.Count(token, "x", Tally{Had: 1}); !errors.Is(err, ErrTally) {
		t.Error("a submission without a proper name", err)
	}
	c.now = c.now.Add(TeamLife)
	if _, _, err := c.Count(token, NewOnce(), Tally{Had: 1}); !errors.Is(err, ErrLink) {
		t.Errorf("after its day: %v", err)
	}
	// Another unit's officer has no say.
	c.units(a, "31-2,31,commune,Hồng Bàng,")
	b := Account{ID: "b", Role: District, Unit: "31-2"}
	if _, _, err := c.NewTeam(b, Team{Place: "market", Unit: "31-1"}); !errors.Is(err, ErrNotYours) {
		t.Error(err)
	}
	if err := c.EndTeam(b, team.ID); !errors.Is(err, ErrNotYours) {
		t.Error(err)
	}
}

// TestNoticesFitPhones: what is published stays within what phones read, in bytes; withdrawing
// makes room.
func TestNoticesFitPhones(t *testing.T) {
	c := newClerk(t)
	a := c.admin()
	long := Notice{Kind: Announcement, Title: Wording{"Tin", "News"}, Text: Wording{strings.Repeat("ộ", MaxNotice), strings.Repeat("<", MaxNotice)}, Until: "2026-12-24"}
	var last Notice
	for i := 0; ; i++ {
		n, err := c.Propose(a, long)
		if errors.Is(err, ErrNoticesFull) && i > 5 {
			break
		}
		if err != nil || i > 100 {
			t.Fatalf("announcement %d: %v", i, err)
		}
		last = n
	}
	if file, err := c.NoticeFile(); err != nil || len(file) > 256<<10 || len(file) < 200<<10 {
		t.Errorf("the file has %d bytes, %v", len(file), err)
	}
	if err := c.Withdraw(a, last.Number); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Propose(a, long); err != nil {
		t.Errorf("no room after withdrawing: %v", err)
	}
}

// TestKeepNotices: a change is published at once, the end of an announcement within the
// hour, and what failed again in a minute.
func TestKeepNotices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClerk(t)
		c.desk.Now = time.Now
		a := c.admin()
		ctx, cancel := context.WithCancel(t.Context())
		var broken atomic.Bool
		var newest atomic.Value
		var failures atomic.Int64
		go c.KeepNotices(ctx, func(_ context.Context, file []byte) error {
			if broken.Load() {
				return errors.New("disk full")
			}
			newest.Store(string(file))
			return nil
		}, func(error) { failures.Add(1) })
		shows := func() bool {
			synctest.Wait()
			file, _ := newest.Load().(string)
			return strings.Contains(file, "Chợ Hỗ")
		}
		propose := func() Notice {
			n, err := c.Propose(a, Notice{Kind: Announcement, Title: Wording{"Tin", "News"}, Text: Wording{"Chợ Hỗ mở lại.", "Ho market is open."}, Until: c.Today()})
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		if synctest.Wait(); newest.Load() != nil {
			t.Fatal("published without a notice")
		}
		broken.Store(true)
		propose()
		synctest.Wait()
		broken.Store(false)
		if time.Sleep(time.Minute); !shows() || failures.Load() != 1 {
			t.Errorf("%q after %d failures", newest.Load(), failures.Load())
		}
		if time.Sleep(25 * time.Hour); shows() {
			t.Error("a notice that is over stays")
		}
		n := propose()
		if !shows() {
			t.Error("a new notice is not published")
		}
		if err := c.Withdraw(a, n.Number); err != nil || shows() {
			t.Errorf("a withdrawn notice stays, %v", err)
		}
		cancel()
	})
}

func TestNotices(t *testing.T) {
	c := newClerk(t)
	a, b := c.admin(), c.join(District, "lan")
	warning := Notice{
		Kind: Warning, Title: Wording{"Tiếp xúc gần", "Close contact"}, Text: Wording{"Bạn đã ở gần một ca bệnh.", "You were near a case."},
		ToDo: Wording{"Gọi đường dây nóng.", "Call the hotline."}, Hotline: "1900 9095", Matching: DefaultMatching,
	}
	n, err := c.Propose(a, warning)
	if err != nil {
		t.Fatal(err)
	}
	if file, err := c.NoticeFile(); file != nil || err != nil {
		t.Fatalf("published by one person: %s %v", file, err)
	}
	if err := c.Approve(a, n.Number); !errors.Is(err, ErrTwoPersons) {
		t.Fatal(err)
	}
	if err := c.Approve(b, n.Number); err != nil {
		t.Fatal(err)
	}
	file, _ := c.NoticeFile()
	if !bytes.Contains(file, []byte(`"hotline": "1900 9095"`)) {
		t.Fatalf("%s", file)
	}
	if err := c.Withdraw(b, n.Number); !errors.Is(err, ErrNoNotice) {
		t.Errorf("a published warning withdrawn: %v", err)
	}
	warning.Hotline = "1900 3228"
	next, _ := c.Propose(b, warning)
	if again, _ := c.NoticeFile(); !bytes.Equal(file, again) {
		t.Error("a proposal shows")
	}
	if err := c.Approve(a, next.Number); err != nil {
		t.Fatal(err)
	}
	if again, _ := c.NoticeFile(); bytes.Contains(again, []byte("9095")) || !bytes.Contains(again, []byte("3228")) {
		t.Errorf("%s", again)
	}
	short := Notice{Kind: Announcement, Title: Wording{"Tin", "News"}, Text: Wording{"Chợ Hỗ mở lại.", "Ho market is open."}, Until: "2026-11-24"}
	if _, err := c.Propose(b, short); err != nil {
		t.Fatal(err)
	}
	if file, _ = c.NoticeFile(); !bytes.Contains(file, []byte("Chợ Hỗ")) {
		t.Errorf("%s", file)
	}
	c.now = c.now.Add(48 * time.Hour)
	if file, _ = c.NoticeFile(); bytes.Contains(file, []byte("Chợ Hỗ")) {
		t.Error("an announcement outlives its day")
	}
	// Withdrawn, it leaves phones as well: the file says that there is nothing.
	alone := newClerk(t)
	a2 := alone.admin()
	told, err := alone.Propose(a2, short)
	if err != nil {
		t.Fatal(err)
	}
	if err := alone.Withdraw(a2, told.Number); err != nil {
		t.Fatal(err)
	}
	if file, err := alone.NoticeFile(); string(file) != "{\n \"announcements\": []\n}\n" || err != nil {
		t.Errorf("after the only announcement was withdrawn: %q %v", file, err)
	}
	for field, spoil := range map[string]func(*Notice){
		"title_vi":  func(n *Notice) { n.Title.VI = " " },
		"text_en":   func(n *Notice) { n.Text.EN = strings.Repeat("x", MaxNotice+1) },
		"hotline":   func(n *Notice) { n.Hotline = "javascript:alert(1)" },
		"minutes":   func(n *Notice) { n.Matching.Minutes = 0 },
		"tolerance": func(n *Notice) { n.Matching.Tolerance = 3601 },
		"onset_to":  func(n *Notice) { n.Matching.OnsetTo = -3 },
	} {
		bad := warning
		spoil(&bad)
		var f *FieldError
		if _, err := c.Propose(a, bad); !errors.As(err, &f) || f.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
}
