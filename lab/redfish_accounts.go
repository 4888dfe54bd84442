package lab

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
)

const (
	accountServicePath = rootPath + "/AccountService"
	accountsPath       = accountServicePath + "/Accounts"
	rolesPath          = accountServicePath + "/Roles"
	// minPassword and maxPassword bound the length of a password, as IPMI
	// does in BMCs that share the accounts with it.
	minPassword, maxPassword = 8, 20
	// maxAccounts is how many there can be.
	maxAccounts = 6
)

// An account is one of a BMC's. In a slot that is free the user is empty.
type account struct {
	user, password, role string
	enabled              bool
}

// FactoryReset makes the accounts what they were when the BMC was new, and
// ends all sessions.
func (b *BMC) FactoryReset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.sessions)
	b.accounts = map[string]account{"1": {b.cfg.User, b.cfg.Password, "Administrator", true}}
}

// Accounts lists the users that may log in.
func (b *BMC) Accounts() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []string
	for id := 1; id <= maxAccounts; id++ {
		if a := b.accounts[strconv.Itoa(id)]; a.enabled {
			all = append(all, a.user)
		}
	}
	return all
}

// known reports whether an account has this password.
func (b *BMC) known(user, password string) bool {
	have := sha256.Sum256([]byte(user + "\x00" + password))
	b.mu.Lock()
	defer b.mu.Unlock()
	found := 0
	for _, a := range b.accounts {
		want := sha256.Sum256([]byte(a.user + "\x00" + a.password))
		if a.enabled {
			found |= subtle.ConstantTimeCompare(have[:], want[:])
		}
	}
	return found == 1
}

// accountDocument returns what is at a path below the AccountService; nil if
// there is nothing.
func (b *BMC) accountDocument(at string) object {
	slots := b.has(FilledSlots)
	switch at {
	case accountServicePath:
		return resource(at, "AccountService.v1_15_0.AccountService", "AccountService", object{
			"ServiceEnabled": true, "MinPasswordLength": minPassword, "MaxPasswordLength": maxPassword,
			"Accounts": link(accountsPath), "Roles": link(rolesPath),
		})
	case rolesPath:
		return collection(at, "Role", rolesPath+"/Administrator")
	case rolesPath + "/Administrator":
		return resource(at, "Role.v1_3_1.Role", "Administrator", object{
			"RoleId": "Administrator", "IsPredefined": true, "AssignedPrivileges": []string{"Login", "ConfigureManager", "ConfigureUsers", "ConfigureSelf", "ConfigureComponents"},
		})
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var members []string
	for id := 1; id <= maxAccounts; id++ {
		n := strconv.Itoa(id)
		a, used := b.accounts[n]
		if !used && !slots {
			continue
		}
		members = append(members, accountsPath+"/"+n)
		if at == accountsPath+"/"+n {
			return resource(at, "ManagerAccount.v1_12_0.ManagerAccount", n, object{
				"UserName": a.user, "Password": nil, "RoleId": a.role, "Enabled": a.enabled, "Locked": false,
				"Links": object{"Role": link(rolesPath + "/" + a.role)},
			})
		}
	}
	if at == accountsPath {
		return collection(at, "ManagerAccount", members...)
	}
	return nil
}

// createAccount adds an account where there is room.
func (b *BMC) createAccount(w http.ResponseWriter, r *http.Request) {
	body := struct {
		UserName, Password, RoleId string //nolint:revive // as Redfish has it
		Enabled                    *bool
	}{}
	if !b.read(w, r, &body) {
		return
	}
	if b.has(FilledSlots) {
		b.fail(w, http.StatusMethodNotAllowed, "OperationNotAllowed", "The HTTP method is not allowed on this resource.")
		return
	}
	a := account{body.UserName, body.Password, body.RoleId, body.Enabled == nil || *body.Enabled}
	b.mu.Lock()
	no, free := b.checkAccount("", a), ""
	for id := maxAccounts; id >= 1; id-- {
		if _, used := b.accounts[strconv.Itoa(id)]; !used {
			free = strconv.Itoa(id)
		}
	}
	if no == nil && free == "" {
		no = &refusal{http.StatusBadRequest, "CreateLimitReachedForResource", "The create operation failed because the resource has reached the limit of possible resources."}
	}
	if no == nil {
		b.accounts[free] = a
	}
	b.mu.Unlock()
	if no != nil {
		b.fail(w, no.status, no.id, no.message)
		return
	}
	w.Header().Set("Location", accountsPath+"/"+free)
	doc, _ := render(b.accountDocument(accountsPath + "/" + free))
	write(w, http.StatusCreated, doc)
}

// checkAccount returns why an account cannot be. b.mu is held.
func (b *BMC) checkAccount(id string, a account) *refusal {
	for other, have := range b.accounts {
		if other != id && have.user == a.user {
			return &refusal{http.StatusBadRequest, "ResourceAlreadyExists", "The requested resource of type ManagerAccount with the property UserName with the value '" + a.user + "' already exists."}
		}
	}
	if n := len(a.password); n < minPassword || n > maxPassword {
		return &refusal{http.StatusBadRequest, "PropertyValueFormatError", fmt.Sprintf("The value for the property Password is of a different format than the property can accept: %d to %d characters.", minPassword, maxPassword)}
	}
	if a.user == "" || a.role != "Administrator" {
		return &refusal{http.StatusBadRequest, "PropertyValueNotInList", "The value '" + a.role + "' for the property RoleId is not in the list of acceptable values."}
	}
	return nil
}

// changeAccount changes an account, or fills in a free one.
func (b *BMC) changeAccount(id string, body map[string]json.RawMessage) *refusal {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.accounts[id]
	into := map[string]any{"UserName": &a.user, "Password": &a.password, "RoleId": &a.role, "Enabled": &a.enabled}
	for property, value := range body {
		if into[property] == nil {
			return notWritable(property)
		}
		if json.Unmarshal(value, into[property]) != nil {
			return wrongType(property)
		}
	}
	if a.enabled {
		if no := b.checkAccount(id, a); no != nil {
			return no
		}
	}
	b.accounts[id] = a
	return nil
}

func (b *BMC) deleteAccount(w http.ResponseWriter, path string) {
	if b.accountDocument(path) == nil {
		b.missing(w, path)
		return
	}
	b.mu.Lock()
	delete(b.accounts, path[len(accountsPath)+1:])
	b.mu.Unlock()
	w.WriteHeader(http.StatusNoContent)
}
