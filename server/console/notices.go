package console

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"bluekey/keystore/desk"
)

type noticesData struct {
	Waiting, Live, Past []noticeRow
	Proposal            desk.Notice // what the form of a warning is filled with
	Blank               desk.Notice // what that of an announcement is
	Today               string
	Writer              bool
}

type noticeRow struct {
	desk.Notice
	Author, Approver string
	Mine             bool
}

// maxPast bounds the notices of the past on the page.
const maxPast = 50

func (c *Console) noticesPage(v *visit) error {
	notices, err := c.Office.Notices()
	if err != nil {
		return err
	}
	names, err := c.names()
	if err != nil {
		return err
	}
	d := noticesData{Today: c.Office.Today(), Writer: slices.Contains(writers, v.account.Role)}
	d.Proposal = desk.Notice{
		Title: c.wording("notice.default.title"), Text: c.wording("notice.default.text"), ToDo: c.wording("notice.default.todo"),
		Matching: desk.DefaultMatching,
	}
	for _, n := range notices {
		row := noticeRow{n, names[n.By], names[n.Approved], n.By == v.account.ID}
		switch {
		case n.Waits():
			d.Waiting = append(d.Waiting, row)
		case c.Office.Live(n):
			d.Live = append(d.Live, row)
			if n.Kind == desk.Warning {
				d.Proposal = n
			}
		case len(d.Past) < maxPast:
			d.Past = append(d.Past, row)
		}
	}
	return v.show(http.StatusOK, "notices", "notices.title", d)
}

// notice reads a notice from a form.
func (v *visit) notice() (n desk.Notice, err error) {
	if err := v.form(); err != nil {
		return n, err
	}
	both := func(field string) desk.Wording {
		return desk.Wording{VI: v.r.PostFormValue(field + "_vi"), EN: v.r.PostFormValue(field + "_en")}
	}
	n = desk.Notice{
		Kind: desk.NoticeKind(v.r.PostFormValue("kind")), Title: both("title"), Text: both("text"), ToDo: both("to_do"),
		Hotline: v.r.PostFormValue("hotline"), Until: v.r.PostFormValue("until"),
	}
	if n.Kind != desk.Warning {
		return n, nil
	}
	for _, f := range []struct {
		name string
		to   *int
	}{{"minutes", &n.Matching.Minutes}, {"tolerance", &n.Matching.Tolerance}, {"onset_from", &n.Matching.OnsetFrom}, {"onset_to", &n.Matching.OnsetTo}} {
		if *f.to, err = strconv.Atoi(strings.TrimSpace(v.r.PostFormValue(f.name))); err != nil {
			return n, &desk.FieldError{Field: f.name, Problem: "number"}
		}
	}
	return n, nil
}

// previewNotice shows a notice as phones will, before it is kept anywhere.
func (c *Console) previewNotice(v *visit) error {
	n, err := v.notice()
	if err != nil {
		return err
	}
	if err := c.Office.CheckNotice(&n); err != nil {
		return err
	}
	return v.show(http.StatusOK, "preview", "notices.preview", n)
}

func (c *Console) propose(v *visit) error {
	n, err := v.notice()
	if err != nil {
		return err
	}
	if _, err := c.Office.Propose(v.account, n); err != nil {
		return err
	}
	return v.see("/notices")
}

func (c *Console) approve(v *visit) error {
	return c.settle(v, c.Office.Approve)
}

func (c *Console) withdraw(v *visit) error {
	return c.settle(v, c.Office.Withdraw)
}

func (c *Console) settle(v *visit, do func(desk.Account, uint64) error) error {
	if err := v.form(); err != nil {
		return err
	}
	n, err := desk.ParseCount(v.r.PostFormValue("notice"))
	if err != nil {
		return notFound
	}
	if err := do(v.account, uint64(n)); err != nil {
		return err
	}
	return v.see("/notices")
}
