package console

import (
	"net/http"
	"slices"

	"bluekey/keystore/desk"
)

type teamsData struct {
	Teams  []teamRow
	Places []string
	Units  []unitChoice
	Fields []string
	Total  desk.Tally
	Writer bool
}

type teamRow struct {
	desk.Team
	UnitName string
	Open     bool
	Mine     bool
}

// maxTeams bounds the teams on the page; the totals count all.
const maxTeams = 200

func (c *Console) teamsPage(v *visit) error {
	teams, err := c.Office.Teams()
	if err != nil {
		return err
	}
	l := c.Office.Ledger()
	d := teamsData{Places: desk.Places[:], Units: c.unitChoices(v.account.Unit), Fields: desk.TallyFields[:], Writer: slices.Contains(staff, v.account.Role)}
	for i, t := range teams {
		for _, f := range desk.TallyFields {
			*d.Total.Field(f) += *t.Total.Field(f)
		}
		if i < maxTeams {
			u, _ := c.Office.Unit(t.Unit)
			d.Teams = append(d.Teams, teamRow{t, u.Name, c.Office.Now().Before(t.Expires), l.Within(t.Unit, v.account.Unit)})
		}
	}
	return v.show(http.StatusOK, "teams", "teams.title", d)
}

// Count is a count of a team by its name, for templates.
func (t teamRow) Count(name string) int64 { return *t.Total.Field(name) }

// Sum is a count of all teams by its name.
func (d teamsData) Sum(name string) int64 { return *d.Total.Field(name) }

func (c *Console) newTeam(v *visit) error {
	if err := v.form(); err != nil {
		return err
	}
	t := desk.Team{Place: v.r.PostFormValue("place"), Unit: v.r.PostFormValue("unit"), Label: v.r.PostFormValue("label")}
	_, token, err := c.Office.NewTeam(v.account, t)
	if err != nil {
		return err
	}
	return c.showLink(v, "teams.made", "teams.made.hint", "/team/"+token, "/teams")
}

func (c *Console) endTeam(v *visit) error {
	if err := v.form(); err != nil {
		return err
	}
	if err := c.Office.EndTeam(v.account, v.r.PostFormValue("team")); err != nil {
		return err
	}
	return v.see("/teams")
}

type teamData struct {
	Team    desk.Team
	Unit    string
	Once    string
	Fields  []string
	Install any // QR of the install page
	URL     string
	Max     int
	Counted bool
	Again   bool
}

// Count is a count of the team by its name, for the template.
func (d teamData) Count(name string) int64 { return *d.Team.Total.Field(name) }

// teamPage is what a team sees: no account, one link, one day.
func (c *Console) teamPage(v *visit) error {
	t, err := c.Office.Team(v.r.PathValue("token"))
	if err != nil {
		return err
	}
	return c.showTeam(v, t, false, false)
}

func (c *Console) showTeam(v *visit, t desk.Team, counted, again bool) error {
	u, _ := c.Office.Unit(t.Unit)
	d := teamData{Team: t, Unit: u.Name, Once: desk.NewOnce(), Fields: desk.TallyFields[:], URL: c.InstallURL, Max: desk.MaxTap, Counted: counted, Again: again}
	if c.InstallURL != "" {
		picture, err := qrSVG(c.InstallURL)
		if err != nil {
			return err
		}
		d.Install = picture
	}
	return v.show(http.StatusOK, "team", "team.title", d)
}

// teamCount takes a tap on one of the buttons, or several counts at once.
func (c *Console) teamCount(v *visit) error {
	if err := v.form(); err != nil {
		return err
	}
	var add desk.Tally
	if tap := add.Field(v.r.PostFormValue("tap")); tap != nil {
		*tap = 1
	} else {
		for _, name := range desk.TallyFields {
			if v.r.PostFormValue(name) == "" {
				continue
			}
			n, err := v.count(name)
			if err != nil {
				return err
			}
			*add.Field(name) = n
		}
	}
	t, counted, err := c.Office.Count(v.r.PathValue("token"), v.r.PostFormValue("once"), add)
	if err != nil {
		return err
	}
	return c.showTeam(v, t, counted, !counted)
}

// tallySheet is a team's page on paper.
func (c *Console) tallySheet(v *visit) error {
	w := v.say()
	p := newPaper("P", "A4")
	p.heading(w.T("tally.heading"))
	p.line(w.T("tally.hint"))
	p.space(4)
	for _, key := range []string{"tally.day", "tally.unit", "tally.place", "tally.team"} {
		p.line(w.T(key) + ": ........................................................................................")
		p.space(1)
	}
	p.space(4)
	columns := []column{{w.T("tally.what"), 56, false}, {w.T("tally.marks"), 92, false}, {w.T("tally.sum"), 30, true}}
	var rows [][]string
	for _, f := range desk.TallyFields {
		rows = append(rows, []string{w.T("tally." + f), "", ""})
	}
	p.table(columns, rows, 4, false)
	p.space(4)
	p.soft(w.T("tally.after"))
	return p.answer(v, "tally.pdf")
}
