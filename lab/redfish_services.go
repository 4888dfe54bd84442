package lab

import (
	"net/http"
	"strconv"
	"strings"
)

const (
	eventsPath = rootPath + "/EventService"
	tasksPath  = rootPath + "/TaskService"
	// monitorsPath is where clients learn how what they asked for has ended.
	monitorsPath = tasksPath + "/TaskMonitors/"
)

// serviceDocument returns resources that are there to be read: they say that
// there is nothing to subscribe to, and what the lab's firmware is set to.
func (b *BMC) serviceDocument(at string) object {
	switch at {
	case eventsPath:
		return resource(at, "EventService.v1_10_2.EventService", "EventService", object{
			"ServiceEnabled": false, "DeliveryRetryAttempts": 0, "Subscriptions": link(at + "/Subscriptions"),
		})
	case eventsPath + "/Subscriptions":
		return collection(at, "EventDestination")
	case tasksPath:
		return resource(at, "TaskService.v1_2_1.TaskService", "TaskService", object{"ServiceEnabled": true, "Tasks": link(at + "/Tasks")})
	case tasksPath + "/Tasks":
		return collection(at, "Task")
	case systemPath + "/SecureBoot":
		return resource(at, "SecureBoot.v1_1_1.SecureBoot", "SecureBoot", object{
			"SecureBootEnable": false, "SecureBootCurrentBoot": "Disabled", "SecureBootMode": "SetupMode",
		})
	case systemPath + "/Storage":
		return collection(at, "Storage", at+"/1")
	case systemPath + "/Storage/1":
		return resource(at, "Storage.v1_16_0.Storage", "1", object{"Drives": []any{}, "Status": object{"State": "Enabled", "Health": "OK"}})
	}
	return nil
}

// promise answers that something will be done: it is, at the second time that
// the client asks for it.
func (b *BMC) promise(w http.ResponseWriter, do func(http.ResponseWriter, *http.Request)) {
	b.mu.Lock()
	at := monitorsPath + strconv.Itoa(len(b.tasks)+1)
	asked := false
	b.tasks[at] = func(w http.ResponseWriter, r *http.Request) {
		if !asked {
			asked = true
			b.stillRuns(w, at)
			return
		}
		do(w, r)
	}
	b.mu.Unlock()
	b.stillRuns(w, at)
}

func (b *BMC) stillRuns(w http.ResponseWriter, at string) {
	id := strings.TrimPrefix(at, monitorsPath)
	doc, _ := render(resource(tasksPath+"/Tasks/"+id, "Task.v1_7_4.Task", id, object{"TaskState": "Running", "TaskMonitor": at}))
	w.Header().Set("Location", at)
	w.Header().Set("Retry-After", "0")
	write(w, http.StatusAccepted, doc)
}

// taskAnswers answers for a task monitor, and reports whether that was asked
// for. One client asks for a task, one question at a time.
func (b *BMC) taskAnswers(w http.ResponseWriter, r *http.Request, path string) bool {
	b.mu.Lock()
	task := b.tasks[path]
	b.mu.Unlock()
	if task == nil {
		return false
	}
	task(w, r)
	return true
}
